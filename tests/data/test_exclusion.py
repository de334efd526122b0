"""Exclusion masks: excluded voxels have no influence on the input of a method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.common.errors import InputError
from scripts.data.exclusion import filled, hidden_on, hide_frames, weights_on
from scripts.data.pair import LoadPair, one_pair
from scripts.data.reader import Volume
from scripts.spatial.geometry import Geometry
from tests.conftest import oblique, rotation


def volume(array, grid):
    return Volume(array[None], grid, "an image")


def test_excluded_voxels_take_the_value_of_the_nearest_other_one():
    rng = np.random.default_rng(0)
    grid = oblique((9, 8, 7), (1.0, 2.0, 3.0))
    image, hidden = rng.random(grid.shape).astype(np.float32), rng.random(grid.shape) > 0.6
    found = filled(volume(image, grid), volume(hidden.astype(np.uint8), grid)).array[0]
    places = np.argwhere(~hidden)
    for voxel in np.argwhere(hidden)[:40]:
        apart = np.linalg.norm((places - voxel) * grid.spacing, axis=1)
        near = image[tuple(places[apart < apart.min() + 1e-6].T)]
        assert found[tuple(voxel)] in near
    np.testing.assert_array_equal(found[~hidden], image[~hidden])


def test_a_mask_of_everything_is_refused():
    grid = Geometry((4, 4), np.eye(4))
    with pytest.raises(InputError, match="excludes all of an image"):
        filled(volume(np.ones(grid.shape), grid), volume(np.ones(grid.shape, np.uint8), grid))


def test_a_coarse_voxel_is_hidden_if_a_fine_one_in_it_is():
    fine = Geometry((12, 9, 8), np.diag([1.0, 1, 1, 1]))
    hidden = np.zeros(fine.shape, np.uint8)
    hidden[5, 4, 7] = 1
    coarse = hidden_on(volume(hidden, fine), fine.resized((4, 3, 4)))
    assert np.argwhere(coarse).tolist() == [[1, 1, 3]]
    assert hidden_on(None, fine) is None


def test_weights_follow_the_initial_alignment():
    grid = Geometry((20, 20, 10), np.diag([2.0, 2, 3, 1]))
    hidden = np.zeros(grid.shape, np.uint8)
    hidden[8:12, 8:12, 4:6] = 1
    shift = np.eye(4)
    shift[0, 3] = 4.0  # two voxels: fixed x shows moving x + 2
    moving, fixed = weights_on(((grid, volume(hidden, grid)), (grid, None)), grid, shift)
    assert bool((fixed == 1).all())
    expected = np.roll(hidden, -2, axis=0)
    expected[-2:] = 1  # the moving image ends there
    assert (moving.numpy()[expected == 1] == 0).all()
    assert (moving.numpy()[ndimage.binary_dilation(expected, np.ones((3, 3, 3))) == 0] == 1).all()
    moving, fixed = weights_on(((grid, None), (grid, None)), grid, shift)
    assert moving[:-2].all() and not moving[-2:].any() and fixed.all()
    assert weights_on(((grid, None), (grid, None)), grid, np.eye(4)) is None


def test_frames_of_photographs_are_hidden():
    rows, columns = np.mgrid[:80, :80]
    disc = (rows - 40) ** 2 + (columns - 40) ** 2 < 30**2
    photo = torch.from_numpy(np.where(disc, 0.6, 0.02)).float().expand(3, -1, -1).clone()
    photo[:, 35:45, 35:45] = 0.0  # a dark lesion is no frame
    plain = torch.full((3, 80, 80), 0.5)
    shown = hide_frames(torch.cat([photo, plain]), None)
    assert shown[1].all()
    np.testing.assert_array_equal(shown[0].numpy() == 1, ~ndimage.binary_dilation(~disc, iterations=2))
    before = torch.ones(2, 80, 80)
    before[1, :9] = 0
    assert not hide_frames(torch.cat([photo, plain]), before)[1, :9].any() and before[0].all()
    assert hide_frames(torch.cat([plain, plain]), None) is None


@pytest.mark.parametrize("init", ["none", "affine"])
def test_intensities_inside_the_masks_change_nothing(heart, init):
    moving = Volume(heart.moving[None], Geometry(heart.moving.shape, heart.moving_affine), "moving")
    turned = heart.fixed_affine.copy()
    turned[:3, :3] = rotation((0, 0, 1), 8) @ turned[:3, :3]
    fixed = Volume(heart.fixed[None], Geometry(heart.fixed.shape, turned), "fixed")
    hidden = np.zeros(heart.moving.shape, np.uint8)
    hidden[20:34, 24:40, 1:5] = 1
    masks = {
        f"{role}_exclude": Volume(hidden[None], v.geometry, "mask")
        for role, v in (("moving", moving), ("fixed", fixed))
    }
    results = []
    for value in (None, 5000.0, -300.0):
        images = {}
        for role, image in (("moving", moving), ("fixed", fixed)):
            array = image.array.copy()
            if value is not None:
                array[0, hidden == 1] = value
            images[role] = replace(image, array=array)
        results.append(LoadPair(init=init)({**images, **masks}))
    for other in results[1:]:
        torch.testing.assert_close(other["image"], results[0]["image"], rtol=0, atol=0)
        torch.testing.assert_close(other["weight"], results[0]["weight"], rtol=0, atol=0)
        np.testing.assert_array_equal(other["pair"].transform, results[0]["pair"].transform)
    plain = LoadPair(init=init)({"moving": moving, "fixed": fixed})
    assert plain["weight"][1].all()  # turned, the fixed image shows some that the moving one does not
    assert one_pair([results[0]])["weight"].shape == (1, 2, *heart.fixed.shape)
    assert float((results[0]["image"] - plain["image"]).abs().max()) > 0.1
    np.testing.assert_array_equal(
        results[1]["pair"].fixed.array[0][hidden == 1], 5000
    )  # the image to write is unchanged


def test_a_mask_on_another_grid_is_refused(heart, heart_files):
    other = Volume(np.ones((1, 8, 8, 8), np.uint8), Geometry((8, 8, 8), np.eye(4)), "lesion.nii.gz")
    with pytest.raises(InputError, match=r"lesion\.nii\.gz is on another grid"):
        LoadPair()({**heart_files, "fixed_exclude": other})
