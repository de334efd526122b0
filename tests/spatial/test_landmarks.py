"""Landmark files and the direction in which a pull field moves points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.spatial.chain import Field, map_points
from scripts.spatial.geometry import apply_affine, resample, world_displacement
from scripts.spatial.landmark_files import Landmarks, fixed_to_moving, read_landmarks, write_landmark_file
from tests.conftest import oblique, smooth_field

GRID = oblique((30, 26, 16), (1.5, 1.2, 3.0))


def test_points_land_where_the_warp_reads():
    # An image whose value is its own world x: the warped value at a landmark is the x of the moved landmark.
    index = np.stack(np.meshgrid(*[np.arange(s) for s in GRID.shape], indexing="ij"), -1)
    world = torch.from_numpy(np.moveaxis(apply_affine(GRID.affine, index), -1, 0)).float()
    ddf = smooth_field(GRID.shape, 1.0, 2)
    transform = np.eye(4)
    transform[:3, 3] = (1.0, -2.0, 0.5)
    moved = resample(world, GRID, GRID, transform, ddf).numpy()
    voxels = np.array([[10, 12, 7], [15, 9, 8], [20, 16, 6]])
    points = fixed_to_moving(apply_affine(GRID.affine, voxels), ddf, GRID, transform)
    np.testing.assert_allclose(points, moved[(slice(None), *voxels.T)].T, atol=1e-3)


def test_two_dimensional_points():
    grid = oblique((20, 30), (0.5, 0.8), 0.0)
    ddf = torch.zeros(1, 2, 20, 30)
    ddf[:, 0] = 2.0
    start = apply_affine(grid.affine, [[5.0, 6.0, 0.0]])
    moved = fixed_to_moving(start, ddf, grid)
    np.testing.assert_allclose(moved, apply_affine(grid.affine, [[7.0, 6.0, 0.0]]), atol=1e-5)


def test_nothing_is_displaced_outside_the_field():
    """As ITK reads a displacement field, so that the command ``warp`` and a registration say the same."""
    ddf, outside = torch.full((1, 3, *GRID.shape), 2.0), apply_affine(GRID.affine, [[-3.0, 5, 5], [10, 30, 5]])
    np.testing.assert_allclose(fixed_to_moving(outside, ddf, GRID), outside)
    field = Field(world_displacement(ddf[0].numpy(), GRID), GRID)
    both = np.concatenate([outside, apply_affine(GRID.affine, [[4.0, 5, 6], [-0.4, 0, 0]])])
    np.testing.assert_allclose(fixed_to_moving(both, ddf, GRID), map_points([field], both), atol=1e-4)


@pytest.mark.parametrize("frame", ["ras", "lps", "voxel"])
def test_frames(tmp_path, frame):
    world = np.array([[1.0, 2.0, 3.0], [-4.0, 5.5, 6.0]])
    rows = {"ras": world, "lps": world * [-1, -1, 1], "voxel": apply_affine(np.linalg.inv(GRID.affine), world)}[frame]
    write_landmark_file(tmp_path / "p.csv", Landmarks(rows))
    np.testing.assert_allclose(read_landmarks(tmp_path / "p.csv", GRID, frame), world, atol=1e-4)


def test_loose_formats_and_errors(tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("# made by hand\n1 2\n\n3;4;5\n")
    np.testing.assert_array_equal(read_landmarks(file, GRID), [[1, 2, 0], [3, 4, 5]])
    file.write_text("x,y,z\n1,2,3\n1,two,3\n")
    with pytest.raises(ValueError, match="line 3: '1,two,3'"):
        read_landmarks(file, GRID)
    file.write_text("1 2 3 4\n")
    with pytest.raises(ValueError, match="line 1"):
        read_landmarks(file, GRID)
    file.write_text("x,y,z\n")
    with pytest.raises(ValueError, match="no landmarks"):
        read_landmarks(file, GRID)
    with pytest.raises(ValueError, match="'mni'"):
        read_landmarks(file, GRID, "mni")
