"""Grids of the networks against nibabel's own reorientation."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.masks.grid import arranged, as_volume, model_grid, native_labels
from scripts.spatial.geometry import Geometry, resample
from tests.conftest import oblique


@pytest.mark.parametrize("layout", ["RAS", "LPS"])
def test_arranged_equals_nibabel(layout):
    values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    geometry = oblique((5, 6, 7), (2.0, 1.0, 3.0), 25)
    swapped = Geometry((7, 5, 6), geometry.affine[:, [2, 0, 1, 3]])
    image = nib.Nifti1Image(values.transpose(2, 0, 1), swapped.affine)
    change = nib.orientations.ornt_transform(nib.io_orientation(swapped.affine), nib.orientations.axcodes2ornt(layout))
    expected = image.as_reoriented(change)
    grid = arranged(swapped, layout)
    assert grid.shape == expected.shape
    np.testing.assert_allclose(grid.affine, expected.affine, atol=1e-9)
    moved = resample(torch.from_numpy(np.asarray(image.dataobj))[None], swapped, grid)
    np.testing.assert_allclose(moved[0].numpy(), expected.get_fdata(), atol=1e-4)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (0, 2, 1)])
def test_slices_layout_puts_the_thick_axis_last(order):
    spacing = np.asarray([1.0, 1.2, 8.0])[list(order)]
    shape = np.asarray([20, 24, 6])[list(order)]
    grid = model_grid(Geometry(tuple(shape), np.diag([*spacing, 1.0])), "slices", (2.0, 2.0, None))
    assert grid.shape[2] == 6 and sorted(grid.shape[:2]) == [10, 14]
    assert grid.spacing[2] == pytest.approx(8.0)


def test_labels_come_back_from_a_permuted_coarser_grid():
    native = oblique((40, 12, 36), (1.0, 4.0, 1.0), 15)
    truth = torch.zeros(native.shape, dtype=torch.uint8)
    truth[8:30, 3:9, 6:20] = 1
    truth[8:30, 3:9, 20:31] = 2
    working = model_grid(native, "slices", (1.5, 1.5, None))
    onehot = torch.stack([(truth == k).float() for k in range(3)])
    back = native_labels(resample(onehot, native, working), working, native)
    for k in (1, 2):
        a, b = back == k, truth == k
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.97


def test_more_classes_than_fit_at_once():
    native = Geometry((6, 7, 8), np.eye(4))
    scores = torch.rand(11, *native.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(native_labels(scores, native, native), scores.argmax(dim=0).to(torch.uint8))


def test_a_plane_becomes_one_slice():
    image, geometry = as_volume(torch.zeros(1, 30, 40), Geometry((30, 40), np.eye(4)))
    assert image.shape == (1, 30, 40, 1) and geometry.shape == (30, 40, 1)
    assert model_grid(geometry, "slices", (2.0, 2.0, None)).shape == (15, 20, 1)


def test_unknown_layout():
    with pytest.raises(ValueError, match="layout must be one of slices, RAS, LPS, got 'ASL'"):
        arranged(Geometry((3, 3, 3), np.eye(4)), "ASL")
