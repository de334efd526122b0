"""A lesion in one image: excluded, it bends the field less, and what it looks like has no influence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.data.pair import LoadPair
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.reader import Volume
from scripts.roi.dense import DenseSettings, roi_to_dense
from scripts.spatial.geometry import Geometry

SHAPE, SPACING = (56, 56), (3.4, 3.4)


@pytest.fixture(scope="module")
def heart():
    """A phantom pair, a lesion in its fixed image, and where the field is measured: around the lesion."""
    pair = cardiac_pair(6, SHAPE, SPACING, noise=10.0)
    grid = np.stack(np.meshgrid(*[np.arange(s) for s in SHAPE], indexing="ij"), axis=-1)
    lesion = ((grid - (26, 21)) ** 2).sum(axis=-1) < 30
    return pair, lesion, ndimage.binary_dilation(lesion, iterations=5) & ~lesion


def field(pair, lesion, value, exclude, **settings):
    """The field of the images alone, (2, *shape) voxels."""
    grid = Geometry(SHAPE, pair.fixed_affine)
    seen = np.where(lesion, value, pair.fixed)
    item = {"moving": Volume(pair.moving[None], grid, "moving"), "fixed": Volume(seen[None], grid, "fixed")}
    if exclude:
        item["fixed_exclude"] = Volume(ndimage.binary_dilation(lesion)[None].astype(np.uint8), grid, "lesion")
    data = LoadPair(window="mr")(item)
    moving, fixed = data["image"].as_tensor().chunk(2)
    none = torch.zeros(0, *SHAPE, dtype=torch.uint8)
    valid = tuple(data["weight"]) if exclude else None
    return roi_to_dense(
        none,
        none,
        SPACING,
        DenseSettings(**{"steps": 25, "sigma": 0.7, **settings}),
        images=(moving, fixed),
        valid=valid,
    ).ddf[0]


@pytest.mark.parametrize("settings", [
    {"image_weight": 20.0, "image_term": "lncc"}, {"image_weight": 60.0, "image_term": "mind"},
    {"image_weight": 20.0, "image_term": "mind", "discrete": True},
], ids=["lncc", "mind", "search"])  # fmt: skip
def test_an_excluded_lesion_bends_the_field_less(heart, settings):
    pair, lesion, around = heart
    errors = {}
    for exclude in (False, True):
        apart = field(pair, lesion, 0.0, exclude, **settings).numpy() - pair.ddf
        errors[exclude] = np.linalg.norm(apart, axis=0)[around].mean()
    assert errors[True] < 0.9 * errors[False]


@pytest.mark.parametrize("discrete", [False, True])
def test_what_an_excluded_lesion_looks_like_changes_nothing(heart, discrete):
    pair, lesion, _ = heart
    settings = {"image_weight": 20.0, "image_term": "mind", "discrete": discrete, "steps": 8}
    fields = [field(pair, lesion, value, True, **settings) for value in (0.0, 900.0)]
    assert torch.equal(*fields)
    assert not torch.equal(fields[0], field(pair, lesion, 0.0, False, **settings))
