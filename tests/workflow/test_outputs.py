"""Written results: complete, on the right grids, readable by other programs, never half-written."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from scripts.common.errors import InputError
from scripts.correspondence.region_masks import RegionMasks
from scripts.correspondence.region_pairs import native_masks, read_region_pairs
from scripts.data.pair import LoadPair, one_pair
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.segmentations import read_segmentation
from scripts.roi.dense import DenseSettings
from scripts.roi.registration import ROIRegistration
from scripts.sam.everything import EverythingMode
from scripts.verbs.evaluate import evaluate
from scripts.verbs.warp import warp
from scripts.workflow.outputs import SaveRegistration
from tests.conftest import rotation
from tests.roi.perfect import perfect_registration
from tests.workflow.registered import prepared


def test_everything_is_there(written):
    folder, _, out = written
    names = {p.name for p in folder.iterdir()}
    assert names == set(out["files"]) == {
        "moving_rois.nii.gz", "fixed_rois.nii.gz", "moving_rois.seg.nrrd", "fixed_rois.seg.nrrd", "ddf.nii.gz",
        "moved.nii.gz", "moved_label.nii.gz", "moved_landmarks.csv", "overview.png", "report.html",
        "correspondence.json",
    }  # fmt: skip


def test_confidence_is_written_on_the_fixed_grid_and_named_in_the_record(written, tmp_path):
    folder, data, _ = written
    assert not (folder / "confidence.nii.gz").exists()
    pair = data["pair"]
    sure = torch.linspace(0, 1, pair.working.shape[0]).view(1, 1, -1, 1, 1).expand(1, 1, *pair.working.shape)
    result = replace(data["pred"], confidence=sure)
    SaveRegistration(str(tmp_path / "out"), keep=["confidence"])({**data, "pred": result})
    image = nib.load(tmp_path / "out" / "confidence.nii.gz")
    np.testing.assert_allclose(image.affine, pair.fixed.geometry.affine, atol=1e-4)
    np.testing.assert_allclose(image.get_fdata()[:, 4, 3], np.linspace(0, 1, image.shape[0]), atol=0.02)
    record = json.loads((tmp_path / "out" / "correspondence.json").read_text(encoding="utf-8"))
    assert record["confidence"] == {"file": "confidence.nii.gz", "mean": 0.5}


def test_grids_and_types(written):
    folder, data, _ = written
    pair = data["pair"]
    for name, grid, dtype in (
        ("moving_rois", pair.moving.geometry, np.uint8),
        ("fixed_rois", pair.fixed.geometry, np.uint8),
        ("moved", pair.fixed.geometry, np.int16),
        ("moved_label", pair.fixed.geometry, np.uint8),
    ):
        image = nib.load(folder / f"{name}.nii.gz")
        assert image.shape == grid.shape
        assert image.get_data_dtype() == dtype
        np.testing.assert_allclose(image.affine, grid.affine, atol=1e-4)
        np.testing.assert_allclose(image.get_qform(), grid.affine, atol=1e-3)


def test_equal_numbers_are_corresponding_regions(written):
    folder, data, _ = written
    record = json.loads((folder / "correspondence.json").read_text(encoding="utf-8"))
    assert [p["number"] for p in record["pairs"]] == [1, 2, 3]
    structures = []
    for role in ("moving", "fixed"):
        rois = np.asarray(nib.load(folder / f"{role}_rois.nii.gz").dataobj)
        truth = getattr(data["pair"], f"{role}_label")
        found = []
        for entry in record["pairs"]:
            mask = rois == entry["number"]
            value = np.bincount(truth.array[0][mask]).argmax()
            found.append(value)
            overlap = 2 * (mask & (truth.array[0] == value)).sum() / (mask.sum() + (truth.array[0] == value).sum())
            assert overlap > 0.8
            world = truth.geometry.affine @ [*np.argwhere(truth.array[0] == value).mean(axis=0), 1]
            np.testing.assert_allclose(entry[role]["centroid_ras_mm"], world[:3], atol=4)
            volume = (truth.array[0] == value).sum() * np.prod(truth.geometry.spacing)
            assert entry[role]["mm3"] == pytest.approx(volume, rel=0.15)
        assert sorted(found) == [1, 2, 3]
        structures.append(found)
    assert structures[0] == structures[1]


def test_simpleitk_moves_the_image_with_the_written_field(written):
    folder, data, _ = written
    field = sitk.Cast(sitk.ReadImage(str(folder / "ddf.nii.gz")), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(field)
    fixed, moving = (sitk.ReadImage(data[r], sitk.sitkFloat32) for r in ("fixed", "moving"))
    low = float(sitk.GetArrayFromImage(moving).min())
    there = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, low)
    there = sitk.GetArrayFromImage(there).T
    here = np.asarray(nib.load(folder / "moved.nii.gz").dataobj, float)
    inner = (slice(8, -8), slice(8, -8), slice(1, -1))
    assert np.abs(here - there)[inner].max() <= 1.5  # the file holds whole numbers
    labels = sitk.ReadImage(data["moving_label"])
    there = sitk.Resample(labels, fixed, transform, sitk.sitkNearestNeighbor, 0)
    here = np.asarray(nib.load(folder / "moved_label.nii.gz").dataobj)
    assert (here == sitk.GetArrayFromImage(there).T).mean() > 0.999


def test_metrics_are_those_of_the_files(written):
    folder, data, out = written
    truth = np.asarray(nib.load(data["fixed_label"]).dataobj)
    moved = np.asarray(nib.load(folder / "moved_label.nii.gz").dataobj)
    record = json.loads((folder / "correspondence.json").read_text(encoding="utf-8"))
    for value in (1, 2, 3):
        dice = 2 * ((truth == value) & (moved == value)).sum() / ((truth == value).sum() + (moved == value).sum())
        assert record["metrics"]["dice"]["final"][str(value)] == pytest.approx(dice, abs=1e-6)
    metrics = out["metrics"]
    assert metrics["dice"]["final"]["mean"] > metrics["dice"]["initial"]["mean"] + 0.15
    assert metrics["hd95_mm"]["final"]["mean"] < metrics["hd95_mm"]["initial"]["mean"]
    assert metrics["tre_mm"]["final"]["mean"] < metrics["tre_mm"]["initial"]["mean"]
    landmarks = np.loadtxt(folder / "moved_landmarks.csv", delimiter=",", skiprows=1)
    errors = np.linalg.norm(landmarks - data["pair"].moving_landmarks, axis=1)
    assert record["metrics"]["tre_mm"]["final"]["mean"] == pytest.approx(errors.mean(), rel=1e-4)
    assert record["parameters"] == {"seed": 3}
    assert record["metrics"]["field"]["folds_percent"] == 0
    assert set(record["versions"]) >= {"torch", "monai", "python"}
    assert record["peak_memory_mb"] > 50


def test_initial_transform_is_in_the_field(tmp_path):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((0, 0, 1), 5)
    matrix[:3, 3] = (6.0, -4.0, 0.0)
    np.savetxt(tmp_path / "start.txt", matrix)
    data = prepared(tmp_path, transform=str(tmp_path / "start.txt"))
    out = SaveRegistration(str(tmp_path / "out"), overview=False)(data)
    assert set(out["metrics"]["dice"]) == {"initial", "aligned", "final"}
    field = sitk.Cast(sitk.ReadImage(str(tmp_path / "out" / "ddf.nii.gz")), sitk.sitkVectorFloat64)
    fixed, moving = (sitk.ReadImage(data[f"{r}_label"]) for r in ("fixed", "moving"))
    there = sitk.Resample(moving, fixed, sitk.DisplacementFieldTransform(field), sitk.sitkNearestNeighbor, 0)
    here = np.asarray(nib.load(tmp_path / "out" / "moved_label.nii.gz").dataobj)
    assert (here == sitk.GetArrayFromImage(there).T).mean() > 0.999
    record = json.loads((tmp_path / "out" / "correspondence.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(record["initial_transform_ras_mm"], matrix, atol=1e-5)


def test_pictures_come_back_as_pictures(tmp_path):
    phantom = cardiac_pair(6, (90, 80), (2.0, 2.0))
    for role in ("moving", "fixed"):
        grey = np.clip(getattr(phantom, role) / 3.5, 0, 255).astype(np.uint8)
        Image.fromarray(grey.T).save(tmp_path / f"{role}.png")
    data = one_pair([LoadPair()({r: str(tmp_path / f"{r}.png") for r in ("moving", "fixed")})])
    labels = [torch.from_numpy(getattr(phantom, f"{r}_label")) for r in ("moving", "fixed")]
    data["pred"] = perfect_registration(*labels, [1, 3], data["pair"].working)
    register = ROIRegistration(EverythingMode(), None, DenseSettings(), progress=False)
    register.fill_dense(data["pred"], data["pair"].working, *data["image"][0].as_tensor().chunk(2))
    out = SaveRegistration(str(tmp_path / "out"))(data)
    assert {"moved.png", "moving_rois.png", "fixed_rois.png", "ddf.nii.gz"} <= set(out["files"])
    moved = np.asarray(Image.open(tmp_path / "out" / "moved.png"))
    assert moved.shape == (80, 90) and moved.dtype == np.uint8
    rois = np.asarray(Image.open(tmp_path / "out" / "fixed_rois.png"))
    np.testing.assert_array_equal(rois.T, np.asarray(nib.load(tmp_path / "out" / "fixed_rois.nii.gz").dataobj)[:, :, 0])


def test_without_pairs_all_regions_are_written(tmp_path, heart_files):
    data = one_pair([LoadPair()(heart_files)])
    label = torch.from_numpy(data["pair"].moving_label.array[0])
    result = perfect_registration(label, label * 0, [1, 3], data["pair"].working)
    out = SaveRegistration(str(tmp_path))({**data, "pred": result})
    assert "moving_regions.nii.gz" in out["files"] and "fixed_regions.nii.gz" not in out["files"]
    assert "ddf.nii.gz" not in out["files"]
    record = json.loads((tmp_path / "correspondence.json").read_text(encoding="utf-8"))
    assert record["pairs"] == [] and record["regions_found"] == {"moving": 2, "fixed": 0}
    assert set(np.unique(nib.load(tmp_path / "moving_regions.nii.gz").dataobj)) == {0, 1, 2}
    names = [s.name for s in read_segmentation(tmp_path / "moving_regions.seg.nrrd").segments]
    assert names == ["region 1", "region 2"]


def test_large_label_numbers_of_an_atlas_are_kept(written, tmp_path):
    _, data, _ = written
    numbers = np.array([0, 2**24 + 1, 2**24 + 2, 614454277], np.uint32)
    pair = data["pair"]
    labels = [replace(v, array=numbers[v.array]) for v in (pair.moving_label, pair.fixed_label)]
    large = replace(pair, moving_label=labels[0], fixed_label=labels[1])
    out = SaveRegistration(str(tmp_path), overview=False)({**data, "pair": large})
    SaveRegistration(str(tmp_path / "small"), overview=False)(data)
    moved, small = (np.asarray(nib.load(p / "moved_label.nii.gz").dataobj) for p in (tmp_path, tmp_path / "small"))
    np.testing.assert_array_equal(moved, numbers[small])
    dice = out["metrics"]["dice"]["final"]
    expected = json.loads((tmp_path / "small" / "correspondence.json").read_text())["metrics"]["dice"]["final"]
    assert [dice[str(n)] for n in numbers[1:]] == [expected[str(k)] for k in (1, 2, 3)]


@pytest.mark.parametrize("kind", ["bilevel", "float"])
def test_pictures_of_unusual_values(tmp_path, kind):
    phantom = cardiac_pair(6, (90, 80), (2.0, 2.0))
    grey = phantom.moving.T.astype(np.float32) / phantom.moving.max()
    picture = Image.fromarray(grey > 0.3) if kind == "bilevel" else Image.fromarray(grey)
    picture.save(tmp_path / "moving.tif")
    Image.fromarray((phantom.fixed.T / phantom.fixed.max() * 255).astype(np.uint8)).save(tmp_path / "fixed.png")
    data = one_pair([LoadPair()({"moving": str(tmp_path / "moving.tif"), "fixed": str(tmp_path / "fixed.png")})])
    labels = [torch.from_numpy(getattr(phantom, f"{r}_label")) for r in ("moving", "fixed")]
    data["pred"] = perfect_registration(*labels, [1, 3], data["pair"].working)
    data["pred"].ddf = torch.zeros(1, 2, 90, 80)
    SaveRegistration(str(tmp_path / "out"), overview=False)(data)
    moved = np.asarray(Image.open(tmp_path / "out" / "moved.png"))
    np.testing.assert_allclose(moved, (grey > 0.3) * 255 if kind == "bilevel" else grey * 255, atol=1)
    stored = nib.load(tmp_path / "out" / "moved.nii.gz").get_fdata()[:, :, 0].T
    np.testing.assert_allclose(stored, (grey > 0.3) * 255 if kind == "bilevel" else grey, atol=1e-5)


def test_region_files_hold_the_matched_regions_exactly(written, tmp_path):
    """Nested and overlapping regions too: here each pair also gets the union of the first two as a region."""
    _, data, _ = written
    result, pair = data["pred"], data["pair"]
    masks = {}
    for role in ("moving", "fixed"):
        whole = getattr(result, f"{role}_masks").whole()
        whole[0] = torch.maximum(whole[0], whole[1])
        masks[role] = whole
    nested = replace(result, **{f"{role}_masks": RegionMasks(m) for role, m in masks.items()})
    SaveRegistration(str(tmp_path), overview=False)({**data, "pred": nested})
    record = json.loads((tmp_path / "correspondence.json").read_text(encoding="utf-8"))
    assert record["region_files"]["exact"] == ["moving_rois.seg.nrrd", "fixed_rois.seg.nrrd"]
    assert record["region_files"]["quick_view"] == ["moving_rois.nii.gz", "fixed_rois.nii.gz"]
    [measured] = evaluate(transforms=str(tmp_path), output_dir=tmp_path / "measured", progress=False)["pairs"]
    assert measured["region_dice/mean/final"] > measured["region_dice/mean/initial"] + 0.1
    warp(tmp_path / "moving_rois.seg.nrrd", tmp_path / "moved.seg.nrrd", str(tmp_path), progress=False)
    arrived = read_segmentation(tmp_path / "moved.seg.nrrd")
    assert arrived.geometry.shape == pair.fixed.geometry.shape
    assert (arrived.mask(0) & arrived.mask(1)).any() and [s.name for s in arrived.segments] == [
        f"pair {p['number']} ({p['score']:.2f})" for p in record["pairs"]
    ]
    with pytest.raises(InputError, match=r"only a \.seg\.nrrd file can hold"):
        warp(tmp_path / "moving_rois.seg.nrrd", tmp_path / "moved.nii.gz", str(tmp_path))
    found = read_region_pairs(tmp_path)
    assert found.scores == tuple(p["score"] for p in record["pairs"])
    for role, transform in (("moving", np.linalg.inv(pair.transform)), ("fixed", np.eye(4))):
        grid = getattr(pair, role).geometry
        for k, mask in enumerate(native_masks(masks[role], pair.working, grid, transform)):
            np.testing.assert_array_equal(getattr(found, role).mask(k), mask)
        assert (getattr(found, role).mask(0) & getattr(found, role).mask(1)).any()


def test_keep_chooses_what_is_written(written, tmp_path):
    _, data, _ = written
    out = SaveRegistration(str(tmp_path), keep=["ddf", "moved_landmarks"])(data)
    assert set(out["files"]) == {"ddf.nii.gz", "moved_landmarks.csv", "correspondence.json"}
    with pytest.raises(InputError, match="got 'filed'"):
        SaveRegistration(str(tmp_path), keep=["filed"])
