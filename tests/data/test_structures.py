"""Masks of structures: where they come from, where they land, and what augmentation does to them."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.common.errors import InputError
from scripts.data.pair import LoadPair
from scripts.data.structures import AddMasks, PairTensors
from scripts.training.network.augment import RandMaskErrors, RandMovingWarp, RandPairIntensity, RandSwap

NAMES = ["right ventricle", "myocardium", "left ventricle"]


@pytest.fixture
def loaded(heart_files):
    keys = ("moving", "fixed", "moving_label", "fixed_label")
    return LoadPair("mr")({k: heart_files[k] for k in keys})


def test_labels_as_masks_for_training(loaded, heart):
    masks = AddMasks(NAMES, "label")(loaded)["masks"]
    np.testing.assert_array_equal(masks[0].numpy(), heart.moving_label)
    np.testing.assert_array_equal(masks[1].numpy(), heart.fixed_label)


def test_without_a_source_masks_are_empty(loaded):
    out = AddMasks(NAMES)(loaded)
    assert out["masks"].shape == (2, *loaded["pair"].working.shape) and not out["masks"].any()
    assert out["pair"].moving_mask is None


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_source_is_asked_by_name(loaded, wrapped):
    asked = []

    def source(volume, names):
        asked.append((volume.path, list(names)))
        array = np.zeros(volume.geometry.shape, np.uint8)
        array[3:9, 4:8] = 2
        return SimpleNamespace(labels=array) if wrapped else array

    masks = AddMasks(NAMES, source)(loaded)["masks"]
    assert asked == [(loaded["pair"].moving.path, NAMES), (loaded["pair"].fixed.path, NAMES)]
    assert (masks[:, 3:9, 4:8] == 2).all() and float((masks > 0).float().mean()) < 0.05


def test_files_come_before_the_source(heart_files, heart, tmp_path):
    item = {k: heart_files[k] for k in ("moving", "fixed")} | {"fixed_mask": heart_files["fixed_label"]}
    out = AddMasks(NAMES, lambda volume, names: np.ones(volume.geometry.shape))(LoadPair("mr")(item))
    np.testing.assert_array_equal(out["masks"][1].numpy(), heart.fixed_label)
    assert (out["masks"][0] == 1).all()


def test_bad_masks(heart_files, heart, tmp_path, loaded):
    item = {k: heart_files[k] for k in ("moving", "fixed")}
    with pytest.raises(InputError, match="has no label map to take masks from"):
        AddMasks(NAMES, "label")(LoadPair("mr")(item))
    with pytest.raises(InputError, match="must be null, label or a callable, got 'bundled'"):
        AddMasks(NAMES, "bundled")
    with pytest.raises(InputError, match=r"contains the label 3, but there are 2 structures \(a, b\)"):
        AddMasks(["a", "b"], "label")(loaded)
    path = tmp_path / "small.nii.gz"
    nib.save(nib.Nifti1Image(heart.moving_label[:-4], heart.moving_affine), path)
    with pytest.raises(InputError, match=r"small\.nii\.gz is on another grid"):
        LoadPair("mr")({**item, "moving_mask": str(path)})


def test_tensors_of_a_training_pair(loaded, heart_files):
    sample = PairTensors(need_labels=True, need_targets=True)(AddMasks(NAMES, "label")(loaded))
    assert sample["image"].shape == sample["masks"].shape == sample["labels"].shape == (2, 64, 64, 6)
    np.testing.assert_allclose(sample["spacing"], (3, 3, 12), rtol=1e-5)
    assert torch.equal(sample["masks"], sample["targets"])
    unseen = PairTensors(need_targets=True)(AddMasks(NAMES)(loaded))
    assert not unseen["masks"].any() and torch.equal(unseen["targets"], unseen["labels"])
    bare = LoadPair("mr")({key: heart_files[key] for key in ("moving", "fixed")})
    with pytest.raises(InputError, match=r"The mask of .* has none of the structures"):
        PairTensors(need_targets=True)(AddMasks(NAMES)(bare))


def test_labels_are_needed_to_validate(heart_files):
    data = AddMasks(NAMES)(LoadPair("mr")({k: heart_files[k] for k in ("moving", "fixed")}))
    with pytest.raises(InputError, match="need label maps of both images"):
        PairTensors(need_labels=True)(data)
    assert not PairTensors()(data)["labels"].any()


def test_masks_of_an_initially_aligned_pair_follow_the_transform(heart_files, tmp_path):
    matrix = np.eye(4)
    matrix[0, 3] = 6.0  # two voxels of 3 mm
    np.savetxt(tmp_path / "shift.txt", matrix)
    keys = ("moving", "fixed", "moving_label", "fixed_label")
    item = {k: heart_files[k] for k in keys}
    still, moved = (
        AddMasks(NAMES, "label")(LoadPair("mr")({**item, **extra}))["masks"]
        for extra in ({}, {"init": str(tmp_path / "shift.txt")})
    )
    direction = 1 if nib.load(item["moving"]).affine[0, 0] > 0 else -1
    assert torch.equal(moved[0, 4:-4], still[0].roll(-2 * direction, dims=0)[4:-4])
    assert torch.equal(moved[1], still[1])


def sample_of(n: int = 32) -> dict:
    labels = torch.zeros(2, n, n, 4)
    labels[:, 8:20, 8:20], labels[:, 20:26, 8:20] = 1, 2
    return {"image": torch.rand(2, n, n, 4), "masks": labels, "targets": labels.clone(), "labels": labels.clone()}


def test_images_change_independently_and_stay_in_range():
    data = sample_of()
    data["image"][1] = data["image"][0]
    change = RandPairIntensity()
    change.set_random_state(0)
    out = change(data)["image"]
    assert float(out.min()) >= 0 and float(out.max()) <= 1
    assert not torch.allclose(out[0], out[1], atol=1e-2)
    change.set_random_state(0)
    assert torch.equal(change(data)["image"], out)


def test_mask_errors_leave_the_targets():
    data = sample_of()
    spoil = RandMaskErrors(no_masks=0, drop=0, shift=6, lose_slice=0)
    spoil.set_random_state(1)
    out = spoil(data)
    assert torch.equal(out["targets"], data["labels"])
    assert not torch.equal(out["masks"][0], out["masks"][1])
    overlap = ((out["masks"] == 1) & (data["targets"] == 1)).sum() / (data["targets"] == 1).sum()
    assert 0.6 < float(overlap) < 1
    assert set(out["masks"].unique().tolist()) <= {0.0, 1.0, 2.0}


def test_masks_are_lost_as_often_as_asked():
    assert not RandMaskErrors(no_masks=1)(sample_of())["masks"].any()
    dropped = RandMaskErrors(no_masks=0, drop=1, shift=0, lose_slice=0)(sample_of())["masks"]
    assert not dropped.any()
    slices = RandMaskErrors(no_masks=0, drop=0, shift=0, lose_slice=1)(sample_of())["masks"]
    assert not slices.any()
    same = RandMaskErrors(no_masks=0, drop=0, shift=0, lose_slice=0)(sample_of())["masks"]
    assert torch.equal(same, sample_of()["masks"])


def test_swap_exchanges_everything():
    data = sample_of()
    data["masks"][0] = 0
    out = RandSwap(1.0)(data)
    assert torch.equal(out["image"][0], data["image"][1]) and not out["masks"][1].any() and out["masks"][0].any()
    assert torch.equal(RandSwap(0.0)(data)["image"], data["image"])


def test_the_moving_image_is_deformed_with_its_labels():
    data = sample_of()
    data["image"] = data["labels"] / 2
    data["spacing"] = torch.tensor([1.0, 1.0, 1.0])
    deform = RandMovingWarp(1.0)
    deform.set_random_state(3)
    out = deform(data)
    for key in ("image", "masks", "targets", "labels"):
        assert torch.equal(out[key][1], data[key][1])
    assert torch.equal(out["masks"], out["labels"]) and torch.equal(out["targets"], out["labels"])
    assert 0.05 < float((out["labels"][0] != data["labels"][0]).float().mean()) < 0.6
    # The image moves as its labels: away from the contours both are the same.
    assert float(((out["image"][0] * 2 - out["labels"][0]).abs() < 0.5).float().mean()) > 0.95
    assert torch.equal(RandMovingWarp(0.0)(data)["image"], data["image"])


def test_thick_slices_move_by_the_same_length():
    # Labels are the index of the voxel, so that a label tells where a voxel came from.
    n = 24
    for axis, most in ((0, 7), (2, 1)):
        place = torch.arange(n).view([-1 if a == axis else 1 for a in range(3)]).expand(n, n, n).float()
        maps = {key: torch.stack([place, place]) for key in ("image", "masks", "targets", "labels")}
        deform = RandMovingWarp(1.0, bend=3.0, shift=4.0)
        deform.set_random_state(0)
        moved = deform({**maps, "spacing": torch.tensor([1.0, 1.0, 10.0])})["image"][0]
        assert most / 4 < float((moved - place).abs().max()) <= most
