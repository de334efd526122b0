"""Grids turned to the patient's axes hold the same voxels, and fields come back to the grid of the file."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.spatial.geometry import Geometry, apply_affine, resample, world_displacement
from scripts.spatial.orientation import ddf_to_grid, oriented
from tests.conftest import oblique, rotation, smooth_field

STORED = ["LPS", "RAS", "SRA", "AIL", "ILP", "PSR"]


def stored_as(codes: str, shape=(7, 6, 5), spacing=(1.0, 1.2, 1.1), degrees: float = 8.0) -> Geometry:
    """A grid whose axes are near those of the patient, in this order; shape and spacing are in LPS order."""
    lps = Geometry(shape, rotation4(degrees) @ np.diag([-1, -1, 1, 1]) @ np.diag([*spacing, 1]))
    image = nib.Nifti1Image(np.zeros(shape, np.uint8), lps.affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(lps.affine), nib.orientations.axcodes2ornt(codes))
    turned = image.as_reoriented(turn)
    return Geometry(turned.shape, np.asarray(turned.affine))


def rotation4(degrees: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((1, 2, 3), degrees)
    return matrix


@pytest.mark.parametrize("codes", STORED)
def test_every_storage_order_becomes_one(codes):
    grid, wanted = stored_as(codes), stored_as("LPS")
    assert "".join(nib.aff2axcodes(grid.affine)) == codes
    turned = oriented(grid)
    assert turned.shape == wanted.shape
    np.testing.assert_allclose(turned.affine, wanted.affine, atol=1e-9)


@pytest.mark.parametrize(("codes", "thick"), [("LPS", 2), ("SLP", 0), ("ASR", 1), ("RAS", 2)])
def test_thick_slices_come_last(codes, thick):
    spacing = np.ones(3)
    spacing["LPS".index({"R": "L", "A": "P", "I": "S"}.get(codes[thick], codes[thick]))] = 8.0
    turned = oriented(stored_as(codes, spacing=tuple(spacing)))
    np.testing.assert_allclose(turned.spacing, (1, 1, 8))


def test_tilted_stacks_are_shown_as_stored():
    grid = oblique((9, 8, 4), (1.0, 1.0, 8.0), 50.0)
    np.testing.assert_array_equal(oriented(grid).affine, grid.affine)
    first = Geometry((4, 9, 8), grid.affine[:, [2, 0, 1, 3]])  # the same stack with its slices first
    np.testing.assert_allclose(oriented(first).affine, grid.affine)
    plane = Geometry((5, 6), np.diag([1.0, -1.0, 1.0, 1.0]))
    assert oriented(plane) is plane


@pytest.mark.parametrize("codes", STORED)
def test_fields_come_back(codes):
    """In the world a field is the same on either grid, and moves an image to the same place."""
    fixed = stored_as(codes, (16, 14, 12))
    working = oriented(fixed)
    ddf = smooth_field(working.shape, 1.5, 4)
    back = ddf_to_grid(ddf, working, fixed)
    assert back.shape == (1, 3, *fixed.shape)
    there = world_displacement(ddf[0].numpy(), working)
    voxels = np.random.default_rng(0).integers(0, fixed.shape, (40, 3))
    places = np.rint(apply_affine(np.linalg.inv(working.affine) @ fixed.affine, voxels)).astype(int)
    here = world_displacement(back[0].numpy(), fixed)
    np.testing.assert_allclose(here[tuple(voxels.T)], there[tuple(places.T)], atol=1e-5)
    image = torch.rand(1, *fixed.shape, generator=torch.Generator().manual_seed(1))
    moved = resample(image, fixed, fixed, ddf=back)[0]
    other = resample(image, fixed, working, ddf=ddf)[0]
    torch.testing.assert_close(moved[tuple(voxels.T)], other[tuple(places.T)], atol=1e-4, rtol=0)


def test_fields_come_back_to_a_finer_grid():
    fixed = stored_as("SRA", (16, 12, 10))
    working = oriented(fixed.resized(tuple(s // 2 for s in fixed.shape)))
    ddf = torch.zeros(1, 3, *working.shape)
    ddf[:, 1] = 1.5  # working voxels to the back, of twice the size
    back = ddf_to_grid(ddf, working, fixed)
    shift = world_displacement(back[0].numpy(), fixed)
    expected = world_displacement(ddf[0].numpy(), working)[0, 0, 0]
    np.testing.assert_allclose(shift, np.broadcast_to(expected, shift.shape), atol=1e-5)
