"""The geometry of fields and resampling, proved against SimpleITK on oblique anisotropic grids of different size."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from scripts.spatial.fields import read_field, write_field
from scripts.spatial.geometry import (
    Geometry,
    apply_affine,
    extent_text,
    overlap,
    resample,
    same_grid,
    voxel_displacement,
    world_displacement,
)
from tests.conftest import oblique, rotation, smooth_field

FIXED, MOVING = (
    oblique((20, 24, 14), (1.5, 1.2, 3.0), 25),
    oblique((26, 18, 20), (1.1, 2.0, 2.2), -15, (7.0, -9.0, 4.0)),
)


def volume(geometry: Geometry, seed: int = 0) -> np.ndarray:
    coarse = torch.randn(1, 1, *[5] * geometry.ndim, generator=torch.Generator().manual_seed(seed))
    mode = "bilinear" if geometry.ndim == 2 else "trilinear"
    return torch.nn.functional.interpolate(coarse, geometry.shape, mode=mode)[0, 0].numpy()


def to_itk(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = np.diag([-1, -1, 1, 1]) @ geometry.affine
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / geometry.spacing).flatten().tolist())
    return image


def interior(geometry: Geometry, ddf, transform, moving: Geometry, margin: float = 1.0) -> np.ndarray:
    """Fixed voxels whose source lies well inside the moving image."""
    index = np.stack(np.meshgrid(*[np.arange(s) for s in geometry.shape], indexing="ij"), -1)
    world = apply_affine(transform, apply_affine(geometry.affine, index + np.moveaxis(ddf, 0, -1)))
    source = apply_affine(np.linalg.inv(moving.affine), world)
    return ((source > margin) & (source < np.array(moving.shape) - 1 - margin)).all(-1)


@pytest.mark.parametrize("with_transform", [False, True])
def test_field_file_moves_images_in_simpleitk_as_here(tmp_path, with_transform):
    transform = np.eye(4)
    if with_transform:
        transform[:3, :3] = rotation((0, 1, 1), 8) * 1.05
        transform[:3, 3] = (2.0, -1.5, 1.0)
    image = volume(MOVING)
    ddf = smooth_field(FIXED.shape, 1.0, 4)
    here = resample(torch.from_numpy(image)[None], MOVING, FIXED, transform, ddf)[0].numpy()
    write_field(tmp_path / "ddf.nii.gz", world_displacement(ddf[0].numpy(), FIXED, transform), FIXED)
    field = sitk.Cast(sitk.ReadImage(str(tmp_path / "ddf.nii.gz")), sitk.sitkVectorFloat64)
    reference = sitk.Image(field.GetSize(), sitk.sitkFloat32)
    reference.CopyInformation(field)
    there = sitk.Resample(to_itk(image, MOVING), reference, sitk.DisplacementFieldTransform(field), sitk.sitkLinear)
    there = sitk.GetArrayFromImage(there).T
    inside = interior(FIXED, ddf[0].numpy(), transform, MOVING)
    assert inside.mean() > 0.2
    np.testing.assert_allclose(here[inside], there[inside], atol=2e-4)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_plain_resampling_equals_simpleitk(mode):
    image = np.round(volume(MOVING) * 10)
    here = resample(torch.from_numpy(image)[None], MOVING, FIXED, mode=mode, fill=-99.0)[0].numpy()
    reference = to_itk(np.zeros(FIXED.shape, np.float32), FIXED)
    kind = sitk.sitkLinear if mode == "bilinear" else sitk.sitkNearestNeighbor
    there = sitk.GetArrayFromImage(sitk.Resample(to_itk(image, MOVING), reference, sitk.Transform(), kind, -99.0)).T
    inside = interior(FIXED, np.zeros((3, *FIXED.shape)), np.eye(4), MOVING)
    agree = np.isclose(here, there, atol=1e-2)
    # Nearest may differ where a point lies midway between two voxels; the outside must be filled alike.
    assert agree[inside].mean() > (0.999 if mode == "bilinear" else 0.99)
    assert ((here == -99) == (there == -99)).mean() > 0.99


def test_two_dimensional_images_resample_in_their_plane():
    fixed, moving = Geometry((30, 20), np.diag([-1.0, -2.0, 1, 1])), Geometry((60, 40), np.diag([-0.5, -1.0, 1, 1]))
    columns = np.arange(60)[:, None] * np.ones((60, 40))
    moved = resample(torch.from_numpy(columns)[None], moving, fixed)[0].numpy()
    np.testing.assert_allclose(moved[:, 3], np.arange(30) * 2, atol=1e-4)


def test_displacements_convert_both_ways():
    ddf = smooth_field(FIXED.shape, 2.0, 5)[0].numpy()
    back = voxel_displacement(world_displacement(ddf, FIXED), FIXED)
    np.testing.assert_allclose(back, ddf, atol=1e-5)


def test_field_files_round_trip_in_both_intents(tmp_path):
    import nibabel as nib

    u = np.random.default_rng(0).normal(size=(*FIXED.shape, 3)).astype(np.float32)
    write_field(tmp_path / "lps.nii.gz", u, FIXED)
    found, grid = read_field(tmp_path / "lps.nii.gz")
    np.testing.assert_array_equal(found, u)
    np.testing.assert_allclose(grid.affine, FIXED.affine, atol=1e-5)
    flipped = nib.Nifti1Image((u * [-1, -1, 1])[:, :, :, None].astype(np.float32), FIXED.affine)
    flipped.header.set_intent(1006)
    nib.save(flipped, tmp_path / "ras.nii.gz")
    np.testing.assert_allclose(read_field(tmp_path / "ras.nii.gz")[0], u, atol=1e-6)
    flipped.header.set_intent(0)
    nib.save(flipped, tmp_path / "none.nii.gz")
    with pytest.raises(ValueError, match="intent 0"):
        read_field(tmp_path / "none.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4)), tmp_path / "image.nii.gz")
    with pytest.raises(ValueError, match=r"\(4, 4, 4\)"):
        read_field(tmp_path / "image.nii.gz")


def test_resized_grid_keeps_the_box():
    coarse = FIXED.resized((10, 12, 7))
    np.testing.assert_allclose(coarse.corners_ras(), FIXED.corners_ras(), atol=1e-9)
    np.testing.assert_allclose(coarse.spacing, np.array(FIXED.spacing) * 2)


def test_overlap_follows_the_transform():
    far = Geometry(FIXED.shape, FIXED.affine.copy())
    far.affine[0, 3] += 500
    shift = np.eye(4)
    shift[0, 3] = 500
    assert overlap(FIXED, FIXED, np.eye(4))
    assert not overlap(FIXED, far, np.eye(4))
    assert overlap(FIXED, far, shift)
    assert "mm RAS" in extent_text(FIXED)


def test_same_grid_counts_voxels():
    moved = Geometry(FIXED.shape, FIXED.affine.copy())
    moved.affine[0, 3] += 1e-5
    assert same_grid(FIXED, moved, 1e-3)
    moved.affine[0, 3] += 0.1
    assert same_grid(FIXED, moved) and not same_grid(FIXED, moved, 1e-3) and not same_grid(FIXED, MOVING)
    turned = FIXED.affine.copy()
    turned[:3, :3] = rotation((0, 0, 1), 1.0) @ turned[:3, :3]  # a degree changes no entry by more than 0.03
    assert not same_grid(FIXED, Geometry(FIXED.shape, turned))
