"""Chains of transforms against SimpleITK, on oblique anisotropic grids of different size."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from scripts.spatial.chain import Field, GridMap, Linear, map_points
from scripts.spatial.geometry import Geometry, apply_affine, resample, world_displacement
from scripts.spatial.itk_transforms import to_itk
from scripts.spatial.resampling import resample_image, resample_labels
from tests.conftest import oblique, rotation, smooth_field
from tests.spatial.test_geometry import to_itk as to_itk_image
from tests.spatial.test_geometry import volume

FIXED = oblique((20, 24, 14), (1.5, 1.2, 3.0), 25)
MOVING = oblique((26, 18, 20), (1.1, 2.0, 2.2), -15, (7.0, -9.0, 4.0))
OTHER = oblique((31, 22, 17), (1.2, 1.7, 2.5), 5, (5.0, -8.0, 3.0))  # a reference that is neither


def affine_step() -> Linear:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((0, 1, 1), 8) * 1.05
    matrix[:3, 3] = (2.0, -1.5, 1.0)
    return Linear(matrix)


def field_step(grid: Geometry, seed: int, amplitude: float = 1.0) -> Field:
    return Field(
        world_displacement(smooth_field(grid.shape, amplitude, seed)[0].numpy(), grid).astype(np.float32), grid
    )


def chains() -> dict[str, list]:
    one, two, linear = field_step(FIXED, 1), field_step(OTHER, 2), affine_step()
    return {
        "identity": [],
        "affine": [linear],
        "field": [one],
        "field, affine": [one, linear],
        "affine, field": [linear, one],
        "field, affine, field": [one, linear, two],
    }


def simpleitk(image: np.ndarray, steps, reference: Geometry, kind, fill: float = 0.0) -> np.ndarray:
    blank = to_itk_image(np.zeros(reference.shape, np.float32), reference)
    moved = sitk.Resample(to_itk_image(image, MOVING), blank, to_itk(steps), kind, fill, sitk.sitkFloat64)
    return sitk.GetArrayFromImage(moved).T


@pytest.mark.parametrize("reference", [FIXED, OTHER], ids=["fixed", "other"])
@pytest.mark.parametrize("name", chains())
def test_linear_resampling_equals_simpleitk(name, reference):
    steps, image = chains()[name], volume(MOVING)
    here, inside = resample_image(image[None], MOVING, reference, steps, fill=-9.0)
    there = simpleitk(image, steps, reference, sitk.sitkLinear, -9.0)
    both = (here[0] != -9) & (there != -9)
    assert both.mean() > 0.15 and inside == pytest.approx((here[0] != -9).mean(), abs=1e-6)
    # Voxels at the very border may fall to either side of it; and where a field ends, half a voxel beyond its grid.
    assert ((here[0] == -9) == (there == -9)).mean() > 0.995
    apart = np.abs(here[0] - there)[both]
    assert np.mean(apart < 3e-4) > 0.998, apart.max()


@pytest.mark.parametrize(("name", "kind"), [("cubic", sitk.sitkBSpline3), ("nearest", sitk.sitkNearestNeighbor)])
def test_other_interpolations_equal_simpleitk(name, kind):
    steps, image = chains()["field, affine"], volume(MOVING)
    here, _ = resample_image(image[None], MOVING, OTHER, steps, interpolation=name, fill=-9.0)
    there = simpleitk(image, steps, OTHER, kind, -9.0)
    both = (here[0] != -9) & (there != -9)
    assert np.mean(np.abs(here[0] - there)[both] < 1e-3) > (0.998 if name == "nearest" else 0.995)


def test_nearest_keeps_every_type_and_value():
    labels = np.arange(np.prod(MOVING.shape), dtype=np.uint32).reshape(MOVING.shape) + 2**31
    here, inside = resample_image(labels[None], MOVING, MOVING, [], interpolation="nearest", fill=0)
    assert here.dtype == np.uint32 and inside == 1
    np.testing.assert_array_equal(here[0], labels)


def test_a_chain_equals_the_resampling_of_a_pair():
    ddf = smooth_field(FIXED.shape, 1.0, 4)
    image = torch.from_numpy(volume(MOVING))[None]
    steps = [Field(world_displacement(ddf[0].numpy(), FIXED).astype(np.float32), FIXED), affine_step()]
    older = resample(image, MOVING, FIXED, affine_step().matrix, ddf, fill=0.0).numpy()
    here, _ = resample_image(image.numpy(), MOVING, FIXED, steps)
    assert np.mean(np.abs(here - older) < 3e-4) > 0.998


def test_one_hot_labels_equal_argmax_of_simpleitk():
    labels = (np.round(np.abs(volume(MOVING)) * 3) * 7).astype(np.int16)
    steps = chains()["field, affine"]
    here, _ = resample_labels(labels, MOVING, OTHER, steps)
    values = np.unique(labels)
    shares = [simpleitk((labels == v).astype(np.float32), steps, OTHER, sitk.sitkLinear, -1.0) for v in values]
    outside = shares[0] == -1
    there = np.where(outside, 0, values[np.argmax(shares, axis=0)])
    assert here.dtype == np.int16
    assert (here == there).mean() > 0.995
    assert set(np.unique(here)) <= set(values) | {0}


def test_points_equal_simpleitk_and_the_grid_map():
    steps = chains()["field, affine, field"]
    transform = to_itk(steps)
    index = np.array([[3, 4, 5], [10, 12, 7], [15, 18, 9]])
    world = apply_affine(FIXED.affine, index)
    lps = np.diag([-1.0, -1.0, 1.0])
    there = np.array([transform.TransformPoint((lps @ p).tolist()) for p in world]) @ lps
    np.testing.assert_allclose(map_points(steps, world), there, atol=1e-4)
    places = GridMap(steps, FIXED, MOVING)(0, FIXED.shape[2]).numpy()
    found = places[:, index[:, 2], index[:, 1], index[:, 0]].T
    np.testing.assert_allclose(found, apply_affine(np.linalg.inv(MOVING.affine), there), atol=1e-3)


def test_planes():
    plane = oblique((30, 26), (1.5, 1.2), 30)
    ddf = torch.zeros(1, 2, 30, 26)
    ddf[:, 0] = 2.0
    field = Field(world_displacement(ddf[0].numpy(), plane).astype(np.float32), plane)
    image = np.arange(30, dtype=np.float32)[:, None] * np.ones((30, 26), np.float32)
    here, _ = resample_image(image[None], plane, plane, [field], fill=-1)
    np.testing.assert_allclose(here[0, :28, 3], np.arange(28) + 2, atol=1e-4)
    assert (here[0, 28:] == -1).all()
