"""Slices are shown as a radiologist sees them, and find their way back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.interpolate import interp1d

from scripts.common.errors import InputError
from scripts.correspondence.slicing import plan_slices
from scripts.spatial.geometry import Geometry
from tests.conftest import oblique

ORIENTATIONS = [np.diag([-1, -1, 1, 1]), np.diag([1, 1, 1, 1]), np.diag([1, -1, -1, 1]),
                np.array([[0, 0, -1, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])]  # fmt: skip


@pytest.mark.parametrize("affine", ORIENTATIONS)
def test_columns_run_left_and_rows_posterior(affine):
    """A volume whose value is its world coordinate shows it growing along columns (left) and rows (posterior)."""
    grid = Geometry((6, 7, 5), affine.astype(float))
    index = np.stack(np.meshgrid(*[np.arange(s) for s in grid.shape], indexing="ij"), -1)
    world = index @ grid.affine[:3, :3].T
    plan = plan_slices(grid)
    left = plan.cut(torch.from_numpy(-world[..., 0])[None].float())[0, 0]
    posterior = plan.cut(torch.from_numpy(-world[..., 1])[None].float())[0, 0]
    superior = plan.cut(torch.from_numpy(world[..., 2])[None].float())
    assert (left.diff(dim=1) > 0).all() and (left.diff(dim=0) == 0).all()
    assert (posterior.diff(dim=0) > 0).all() and (posterior.diff(dim=1) == 0).all()
    assert (superior[0] == superior[0, 0, 0, 0]).all()


@pytest.mark.parametrize("affine", ORIENTATIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_maps_and_points_come_back(affine, axis):
    grid = Geometry((6, 7, 5), affine.astype(float))
    volume = torch.rand(grid.shape)
    plan = plan_slices(grid, axis)
    stack = plan.cut(volume[None])[:, 0] / 255
    torch.testing.assert_close(plan.place(stack), volume)
    voxels = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0]])
    places, position = plan.from_index(voxels, tuple(stack.shape[1:]))
    shown = stack[position, places[:, 1].long(), places[:, 0].long()]
    torch.testing.assert_close(shown, volume[tuple(voxels.long().T)])
    torch.testing.assert_close(plan.to_index(places, position, tuple(stack.shape[1:])), voxels)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("spacing_mm", "count"), [(0.0, 11), (3.0, 4), (5.0, 2)])
def test_a_run_of_slices_is_placed_as_a_stack_with_zeros_elsewhere(axis, spacing_mm, count):
    grid = Geometry(tuple(11 if a == axis else 4 for a in range(3)), np.diag([-1.0, 1, 1, 1]))
    plan = plan_slices(grid, axis, spacing_mm)
    known = list(plan.indices)
    assert len(known) == count
    half = np.diff(known).max() / 2
    shown = np.flatnonzero((np.arange(11) >= known[0] - half) & (np.arange(11) <= known[-1] + half))
    for first, last in itertools.combinations_with_replacement(range(count), 2):
        stack = torch.zeros(count, 4, 4)
        stack[first : last + 1] = torch.rand(last + 1 - first, 4, 4)
        whole = plan.place(stack).movedim(axis, 0)
        naive = np.zeros((11, 4, 4), np.float32)
        naive[shown] = interp1d(known, whole[known].numpy(), axis=0)(np.clip(shown, known[0], known[-1]))
        np.testing.assert_allclose(whole, naive, atol=1e-6)
        planes, values = plan.place_run(stack[first : last + 1], first)
        placed = torch.zeros(11, 4, 4)
        placed[planes] = values
        torch.testing.assert_close(placed, whole, rtol=0, atol=0)


def test_two_dimensional_images():
    grid = oblique((8, 6), (1.0, 1.0), 0.0)
    image = torch.rand(3, 8, 6)
    plan = plan_slices(grid)
    assert plan.cut(image).shape == (1, 3, 6, 8)
    torch.testing.assert_close(plan.place(plan.cut(image)[:, 1] / 255), image[1])


def test_thick_slices_choose_the_axis():
    assert plan_slices(Geometry((64, 64, 10), np.diag([-1.5, -1.5, 8, 1]))).axis == 2
    assert plan_slices(Geometry((10, 64, 64), np.diag([-8, -1.5, 1.5, 1]))).axis == 0
    assert plan_slices(Geometry((64, 64, 64), np.diag([-2.0, -2, 2, 1]))).axis == 2
    with pytest.raises(InputError, match="got 5"):
        plan_slices(Geometry((4, 4, 4), np.eye(4)), 5)


def test_pixels_of_volumes_have_a_size():
    grid = Geometry((10, 64, 64), np.diag([-8, -1.5, 2.0, 1]))
    assert plan_slices(grid).pixel_mm2(grid.spacing) == pytest.approx(3.0)
    picture = oblique((8, 6), (2.0, 2.0), 0.0)
    assert plan_slices(picture).pixel_mm2(picture.spacing) is None


def test_skipped_slices_are_interpolated():
    grid = Geometry((4, 4, 20), np.diag([-1.0, -1, 1, 1]))
    plan = plan_slices(grid, "auto", 4.0)
    assert plan.indices == (2, 6, 10, 14, 18)
    levels = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.5])
    line = plan.place(levels[:, None, None].expand(-1, 4, 4))[0, 0]
    np.testing.assert_allclose(line[6:11], [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(line[18:], [0.5, 0.5])
