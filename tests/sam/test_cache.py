"""The cache of masks returns exactly what was computed, and only for the same input."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import torch

from scripts.sam.cache import CachedEncoder, CachedEverything
from scripts.sam.compact import compact_sam
from scripts.sam.everything import EverythingMode, encode
from scripts.sam.slice_masks import SliceMasks


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    return compact_sam(tokens=4).eval()


@pytest.fixture(scope="module")
def slices():
    return torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(1)) * 255


def everything(points: int = 2) -> EverythingMode:
    return EverythingMode(points, pred_iou_thresh=0.0, stability_score_thresh=0.0)


def same(a: list[SliceMasks], b: list[SliceMasks]) -> bool:
    pairs = [(getattr(x, f.name), getattr(y, f.name)) for x, y in zip(a, b) for f in fields(x)]
    return len(a) == len(b) and all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def test_a_hit_is_what_was_computed(sam, slices, tmp_path):
    fresh = everything()(sam, slices)
    assert len(fresh[0])  # masks to remember
    for counts in ({"computed": 2, "reused": 0}, {"computed": 0, "reused": 2}):
        cached = CachedEverything(everything(), tmp_path)
        assert same(cached(sam, slices), fresh)
        assert cached.counts == counts
    assert [p.name.endswith(".masks.pt") for p in tmp_path.iterdir()] == [True]


def test_another_question_is_no_hit(sam, slices, tmp_path):
    CachedEverything(everything(), tmp_path)(sam, slices)
    other = copy.deepcopy(sam)
    next(other.parameters()).data += 1e-3
    for model, points, image in ((other, 2, slices), (sam, 1, slices), (sam, 2, slices + 1), (sam, 2, slices[:1])):
        cached = CachedEverything(everything(points), tmp_path)
        cached(model, image)
        assert cached.counts["reused"] == 0
    other = copy.deepcopy(sam)
    other.encoder_dtype = torch.bfloat16
    cached = CachedEverything(everything(), tmp_path)
    cached(other, slices)
    assert cached.counts["reused"] == 0


def test_without_a_folder_nothing_is_written(sam, slices, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for cached in (CachedEverything(everything()), CachedEverything(everything(), tmp_path / "off", max_gb=0)):
        cached(sam, slices), cached(sam, slices)
        assert cached.counts == {"computed": 4, "reused": 0}
    assert list(tmp_path.iterdir()) == []


def test_an_embedding_is_kept(sam, slices, tmp_path, monkeypatch):
    fresh, size = CachedEncoder(tmp_path)(sam, slices)
    torch.testing.assert_close(fresh, encode(sam, slices)[0], rtol=0, atol=0)
    monkeypatch.setattr("scripts.sam.cache.encode", lambda *a: pytest.fail("it was encoded again"))
    kept, kept_size = CachedEncoder(tmp_path)(sam, slices)
    assert torch.equal(kept, fresh) and tuple(kept_size) == tuple(size)
    for question in ((sam, slices[:1]), (sam, slices + 1)):
        with pytest.raises(pytest.fail.Exception, match="encoded again"):
            CachedEncoder(tmp_path)(*question)
