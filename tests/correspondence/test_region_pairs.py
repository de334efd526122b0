"""Region pairs are written exactly as they were matched, however the regions overlap."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from scripts.common.errors import InputError
from scripts.correspondence.moved_regions import move_regions, region_dice
from scripts.correspondence.region_pairs import (
    FILES,
    RECORD,
    RegionPairs,
    native_masks,
    pair_names,
    quick_view,
    read_region_pairs,
    segment,
)
from scripts.data.segmentations import write_segmentation
from scripts.spatial.chain import Linear
from scripts.spatial.geometry import Geometry, resample
from tests.conftest import oblique, rotation


def overlapping(shape: tuple[int, ...]) -> torch.Tensor:
    """A disc, a ring around it, a large disc over both, a disc inside, one that overlaps all, and an empty one."""
    axes = torch.meshgrid(*[torch.arange(s) - s / 2 for s in shape], indexing="ij")
    radius = sum((a / (s / 2)) ** 2 for a, s in zip(axes, shape)).sqrt()
    corner = axes[0] > 0
    masks = [radius < 0.4, (radius >= 0.4) & (radius < 0.7), radius < 0.9, radius < 0.15, corner, radius < 0]
    return torch.stack(masks).to(torch.uint8) * 255


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 12)])
def test_written_regions_equal_the_matched_ones_voxel_for_voxel(tmp_path, shape):
    grid = oblique(shape, (1.5,) * len(shape), 0.0 if len(shape) == 2 else 20.0)
    masks = {"moving": overlapping(shape), "fixed": overlapping(shape).flip(1)}
    scores = torch.linspace(0.95, 0.9, len(masks["moving"]))
    for role, name in FILES.items():
        write_segmentation(tmp_path / name, segment(masks[role], pair_names(scores), grid, grid, np.eye(4)))
    pairs = [{"number": k + 1, "score": float(s)} for k, s in enumerate(scores)]
    (tmp_path / RECORD).write_text(json.dumps({"pairs": pairs}), encoding="utf-8")
    found = read_region_pairs(tmp_path)
    assert len(found) == 6 and found.names[2] == "pair 3 (0.93)"
    assert found.scores == pytest.approx(scores.tolist())
    assert [s.colour for s in found.moving.segments] == [s.colour for s in found.fixed.segments]
    for role in FILES:
        regions = getattr(found, role)
        np.testing.assert_allclose(regions.geometry.affine, grid.affine, atol=1e-4)
        covered = [torch.from_numpy(regions.mask(k)) for k in range(len(regions.segments))]
        torch.testing.assert_close(torch.stack(covered).to(torch.uint8) * 255, masks[role])


@pytest.mark.parametrize("n", [2, 3])
def test_boxes_give_the_same_as_resampling_the_whole_grid(n):
    shape, target_shape = (20, 24, 12)[:n], (31, 27, 14)[:n]
    soft = torch.nn.functional.avg_pool3d if n == 3 else torch.nn.functional.avg_pool2d
    masks = soft(overlapping(shape)[:, None].float(), 3, 1, 1)[:, 0].round().to(torch.uint8)
    working = oblique(shape, (3.0, 2.5, 4.0)[:n], 0.0)
    target = oblique(target_shape, (2.0, 2.0, 3.0)[:n], 10.0 if n == 3 else 0.0, centre=(3.0, -6.0, 3.0))
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = rotation((0, 0, 1), 8), (2.0, -1.0, 0.0)
    for mask, found in zip(masks, native_masks(masks, working, target, transform)):
        whole = resample(mask[None].float(), working, target, transform, fill=0.0)[0].numpy() >= 127.5
        assert (found != whole).sum() <= 1  # a coverage of exactly one half may round either way
        assert found.any() == mask.gt(127).any().item()


def test_a_segmentation_contains_the_native_masks_even_of_regions_out_of_view_or_empty():
    shape = (20, 24, 12)
    masks = torch.cat([overlapping(shape), torch.zeros(1, *shape, dtype=torch.uint8)])
    working, target = oblique(shape, (3.0, 2.5, 4.0), 0.0), oblique((31, 27, 14), (2.0, 2.0, 3.0), 10.0)
    transform = np.eye(4)
    names = [str(k) for k in range(len(masks))]
    for transform[0, 3], seen in ((2.0, True), (15.0, True), (400.0, False), (-400.0, False)):
        found = segment(masks, names, working, target, transform)
        exact = [*native_masks(masks, working, target, transform)]
        assert any(m.any() for m in exact) == seen
        assert len(found.segments) == len(masks)
        for k, mask in enumerate(exact):
            np.testing.assert_array_equal(found.mask(k), mask)


@pytest.mark.parametrize("mirrored", [False, True])
def test_on_the_same_grid_masks_are_kept_and_on_a_mirrored_one_they_turn(mirrored):
    shape = (20, 24, 12)
    soft = torch.nn.functional.avg_pool3d(overlapping(shape)[:, None].float(), 3, 1, 1)[:, 0].round().to(torch.uint8)
    working = oblique(shape, (3.0, 2.5, 4.0), 0.0)
    target = working
    if mirrored:
        flip = np.diag([-1.0, 1, 1, 1])
        flip[0, 3] = shape[0] - 1
        target = Geometry(shape, working.affine @ flip)
    for mask, found in zip(soft, native_masks(soft, working, target, np.eye(4))):
        expected = (mask >= 127.5).numpy()
        np.testing.assert_array_equal(found, expected[::-1] if mirrored else expected)


def test_small_regions_lie_on_top_in_the_quick_view():
    grid = Geometry((20, 24), np.eye(4))
    regions = segment(overlapping((20, 24)), [str(k) for k in range(6)], grid, grid, np.eye(4))
    labels = quick_view(regions)
    sizes = [regions.mask(k).sum() for k in range(6)]
    naive = np.zeros(labels.shape, int)
    for k in sorted(range(6), key=lambda k: -sizes[k]):
        naive[regions.mask(k)] = k + 1
    np.testing.assert_array_equal(labels, naive)
    np.testing.assert_array_equal(labels == 4, regions.mask(3))  # nested in the disc, and whole


def test_folders_that_contain_no_pairs_are_refused(tmp_path):
    with pytest.raises(InputError, match="no complete result"):
        read_region_pairs(tmp_path)
    (tmp_path / RECORD).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="no region pairs"):
        read_region_pairs(tmp_path)
    grid = Geometry((8, 8), np.eye(4))
    for name in FILES.values():
        write_segmentation(tmp_path / name, segment(overlapping((8, 8))[:2], ["a", "b"], grid, grid, np.eye(4)))
    with pytest.raises(InputError, match="is damaged"):
        read_region_pairs(tmp_path)
    (tmp_path / RECORD).write_text(json.dumps({"pairs": [{"score": 1.0}]}), encoding="utf-8")
    with pytest.raises(InputError, match="do not belong"):
        read_region_pairs(tmp_path)


def test_overlapping_regions_are_moved_and_measured_whole():
    """A shift by whole voxels: every region arrives exactly, and Dice is what counting voxels gives."""
    shape = (20, 24, 12)
    grid = Geometry(shape, np.diag([2.0, 2.0, 3.0, 1.0]))
    masks = overlapping(shape)[:5]
    moving = segment(masks.roll(3, 1), pair_names(torch.ones(5)), grid, grid, np.eye(4))
    fixed = segment(masks, pair_names(torch.ones(5)), grid, grid, np.eye(4))
    shift = np.eye(4)
    shift[0, 3] = 6.0  # three voxels
    moved, inside = move_regions(moving, grid, [Linear(shift)])
    assert inside == pytest.approx(17 / 20)
    pairs = RegionPairs(tuple("abcde"), (1.0,) * 5, moving, fixed)
    found = region_dice(pairs, {"initial": [], "final": [Linear(shift)]})["region_dice"]
    for k in range(5):
        np.testing.assert_array_equal(moved.mask(k)[:17], fixed.mask(k)[:17])
        a, b = moving.mask(k), fixed.mask(k)
        assert found["initial"][k + 1] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert found["final"][1] == 1.0 and found["final"]["mean"] > found["initial"]["mean"]
