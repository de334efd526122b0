"""Building models: hashes, missing and foreign files, MedSAM's refusal."""

from __future__ import annotations

import pytest
import torch
import yaml
from segment_anything.modeling import Sam

from scripts.common.errors import InputError
from scripts.common.fingerprint import file_sha256
from scripts.sam import build
from scripts.sam.build import RELEASED, SERVER, build_sam
from scripts.sam.compact import compact_sam
from scripts.sam.everything import EverythingMode


@pytest.fixture
def small_vit(monkeypatch):
    """The registry with a small model as ViT-B, so that real loading runs without 375 MB."""
    monkeypatch.setitem(build.sam_model_registry, "vit_b", lambda: compact_sam(64, 8, 16, 32, channels=(8, 8, 8, 8)))
    return build.sam_model_registry["vit_b"]


def test_released_weights_stand_in_large_files(bundle):
    listed = yaml.safe_load((bundle / "large_files.yml").read_text(encoding="utf-8"))["large_files"]
    assert {(f["path"], f["url"], f["hash_val"]) for f in listed} == {
        (f"models/{file}", SERVER + file, digest) for name, (file, digest) in RELEASED.items() if name != "medsam"
    }


@pytest.mark.parametrize("model", ["vit_b", "vit_l", "vit_h", "medsam"])
def test_missing_checkpoint_says_where_to_get_it(model, tmp_path):
    with pytest.raises(InputError, match=r"get them from .*, or use --sam compact"):
        build_sam(model, str(tmp_path / "none.pth"))


def test_hash_is_checked(small_vit, tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(small_vit().state_dict(), path)
    with pytest.raises(InputError, match=r"does not have the SHA-256 of SAM vit_b \(ec2df6273261"):
        build_sam("vit_b", str(path))
    assert isinstance(build_sam("vit_b", str(path), sha256=file_sha256(path)), Sam)
    assert not build_sam("vit_b", str(path), sha256=None).training


def test_a_training_stands_for_its_averaged_weights(bundled, tmp_path):
    """The state of configs/train_sam.json, whose network and average differ."""
    average = {f"sam.{k}": v for k, v in bundled.state_dict().items()}
    other = {k: v + 1 if v.is_floating_point() else v for k, v in average.items()}
    torch.save({"network": other, "ema": average, "engine": {"epoch": 3}}, tmp_path / "last.pt")
    built = build_sam("compact", str(tmp_path / "last.pt")).state_dict()
    assert all(torch.equal(v, built[k]) for k, v in bundled.state_dict().items())


def test_truncated_and_foreign_files(small_vit, tmp_path):
    whole, cut = tmp_path / "whole.pth", tmp_path / "cut.pth"
    torch.save(small_vit().state_dict(), whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut\.pth is not a readable weights file"):
        build_sam("vit_b", str(cut), sha256=None)
    with pytest.raises(InputError, match=r"does not fit SAM compact: \d+ entries differ, first "):
        build_sam("compact", str(whole))
    torch.save({"model": small_vit().state_dict()}, whole)
    with pytest.raises(InputError, match="not a dict of tensors"):
        build_sam("vit_b", str(whole), sha256=None)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match="not a readable weights file"):
        build_sam("compact", str(tmp_path / "text.pth"))
    with pytest.raises(InputError, match=r"weights .*gone\.pt are missing"):
        build_sam("compact", str(tmp_path / "gone.pt"))
    with pytest.raises(InputError, match="precision must be one of auto, float32, bfloat16, float16, got 'int8'"):
        build_sam(precision="int8")
    with pytest.raises(InputError, match="'vit_x'; choose one of compact, lite_medsam, vit_b"):
        build_sam("vit_x")


def test_medsam_is_refused_in_everything_mode(small_vit, tmp_path):
    path = tmp_path / "med.pth"
    torch.save(small_vit().state_dict(), path)
    sam = build_sam("medsam", str(path))
    with pytest.raises(InputError, match="box prompts only"):
        EverythingMode()(sam, torch.zeros(1, 3, 64, 64))


def test_released_architecture_loads(tmp_path):
    """The real ViT-B architecture through the real registry."""
    sam = build.sam_model_registry["vit_b"]()
    path = tmp_path / "vit_b.pth"
    torch.save(sam.state_dict(), path)
    loaded = build_sam("vit_b", str(path), sha256=None)
    torch.testing.assert_close(loaded.mask_decoder.mask_tokens.weight, sam.mask_decoder.mask_tokens.weight)
