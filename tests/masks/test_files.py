from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.common.errors import InputError
from scripts.masks.build import build_source
from scripts.masks.cache import mask_key
from scripts.spatial.geometry import Geometry

PATTERN = "files:{folder}/{stem}_seg.nii.gz"


def test_values_become_numbers_of_the_names(labelled):
    volume, labels = labelled
    masks = build_source(PATTERN, {"values": {"LV": 3, "RV": 7}})(volume, "right ventricle, lv")
    assert masks.names == ("right ventricle cavity", "left ventricle cavity")
    assert np.array_equal(masks.labels, np.select([labels == 7, labels == 3], [1, 2]).astype(np.uint8))


def test_a_label_map_on_another_grid_is_brought_over(labelled, tmp_path):
    volume, labels = labelled
    coarse = Geometry(volume.geometry.shape, volume.geometry.affine).resized((80, 72, 12))
    fine = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    nib.save(nib.Nifti1Image(fine, coarse.affine), tmp_path / "scan_seg.nii.gz")
    masks = build_source(PATTERN, {"values": {"LV": 3}})(volume, "lv")
    assert np.array_equal(masks.labels, (labels == 3).astype(np.uint8))


def test_bad_files(labelled, tmp_path):
    volume, labels = labelled
    with pytest.raises(InputError, match="needs the values of structures"):
        build_source(PATTERN)
    with pytest.raises(InputError, match=r"scan_other.nii.gz does not exist"):
        build_source("files:{folder}/{stem}_other.nii.gz", {"values": {"LV": 3}})(volume, "lv")
    with pytest.raises(InputError, match="may contain only"):
        build_source("files:{dir}/x.nii.gz", {"values": {"LV": 3}})(volume, "lv")
    with pytest.raises(InputError, match="has no structure 'liver'"):
        build_source(PATTERN, {"values": {"LV": 3}})(volume, "liver")
    away = volume.geometry.affine.copy()
    away[:3, 3] += 4000
    nib.save(nib.Nifti1Image(labels, away), tmp_path / "scan_seg.nii.gz")
    with pytest.raises(InputError, match="give the label map of this image"):
        build_source(PATTERN, {"values": {"LV": 3}})(volume, "lv")
    nib.save(nib.Nifti1Image(labels[..., :1], volume.geometry.affine), tmp_path / "scan_seg.nii.gz")
    with pytest.raises(InputError, match="the dimensions of its image"):
        build_source(PATTERN, {"values": {"LV": 3}})(volume, "lv")


def test_cache_by_content(labelled, tmp_path, monkeypatch):
    volume, labels = labelled
    cached = build_source(PATTERN, {"values": {"LV": 3, "RV": 7}}, tmp_path / "cache")
    calls = []
    make = cached.source.segment
    monkeypatch.setattr(cached.source, "segment", lambda *a, **k: calls.append(a) or make(*a, **k))
    first = cached(volume, "lv,rv")
    second = cached(volume, "lv,rv")
    assert len(calls) == 1 and np.array_equal(first.labels, second.labels) and first.names == second.names
    cached(volume, "rv,lv")
    assert len(calls) == 2
    volume.array[0, 0, 0, 0] += 1
    cached(volume, "lv,rv")
    assert len(calls) == 3
    nib.save(nib.Nifti1Image(labels * 0 + 3, volume.geometry.affine), tmp_path / "scan_seg.nii.gz")
    assert cached(volume, "lv,rv").labels.all()  # the label map changed
    monkeypatch.setattr(cached.source, "modality", "mr")  # an attribute that affects no mask
    cached(volume, "lv,rv")
    assert len(calls) == 4


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_a_flipped_bit_in_the_cache_changes_no_mask(labelled, tmp_path, place):
    volume, _ = labelled
    cached = build_source(PATTERN, {"values": {"LV": 3, "RV": 7}}, tmp_path / "cache")
    good = cached(volume, "lv,rv").labels
    (path,) = (tmp_path / "cache").iterdir()
    content = bytearray(path.read_bytes())
    content[{"start": 0, "middle": len(content) // 2, "end": len(content) - 1}[place]] ^= 4
    path.write_bytes(content)
    assert np.array_equal(cached(volume, "lv,rv").labels, good)


def test_an_entry_of_another_shape_is_made_again(labelled, tmp_path):
    volume, labels = labelled
    cached = build_source(PATTERN, {"values": {"LV": 3}}, tmp_path / "cache")
    key = mask_key(cached.source, volume, ("left ventricle cavity",), "auto")
    cached.cache.write(key, torch.zeros(3, 4, 5, dtype=torch.uint8))
    assert np.array_equal(cached(volume, "lv").labels, (labels == 3).astype(np.uint8))


def test_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        build_source(PATTERN, {"values": {"LV": 3}}, tmp_path / "file" / "cache")
