"""Slices are shown as a radiologist sees them, and find their way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
