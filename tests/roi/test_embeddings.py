"""Embeddings of the model lead the search where the images say nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.common.errors import InputError
from scripts.correspondence.slicing import plan_slices
from scripts.roi.dense import DenseSettings, roi_to_dense
from scripts.roi.embeddings import embedding_channels
from scripts.spatial.geometry import Geometry
from tests.roi.perfect import TOKENS, perfect_regions

SHAPE, SHIFT = (96, 80), 12


@pytest.fixture(scope="module")
def labels() -> tuple[torch.Tensor, torch.Tensor]:
    """Moving and fixed label map: two rectangles and the rest, 12 voxels apart along the first axis."""
    moving = torch.ones(SHAPE)
    moving[48:72, 16:36] = 2
    moving[40:64, 48:64] = 3
    return moving, moving.roll(-SHIFT, 0)


def channels(labels) -> tuple[torch.Tensor, torch.Tensor]:
    plan = plan_slices(Geometry(SHAPE, np.eye(3)))
    return embedding_channels(*(perfect_regions(label, [1, 2, 3], plan) for label in labels), count=2)


def test_channels_are_constant_in_a_structure_and_alike_in_both_images(labels):
    moving, fixed = channels(labels)
    assert moving.shape == fixed.shape == (2, TOKENS, TOKENS)
    assert torch.cat([moving, fixed], dim=1).flatten(1).var(dim=1).mean() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(moving[:, TOKENS * 60 // 96, 8], fixed[:, TOKENS * 48 // 96, 8], atol=1e-3, rtol=0)
    inside, other = moving[:, TOKENS * 60 // 96, 8], moving[:, TOKENS * 52 // 96, 17]
    assert (inside - other).norm() > 1


def test_the_search_follows_the_embeddings_where_the_images_are_flat(labels):
    flat = torch.full((1, *SHAPE), 0.5)
    masks = [((label == 2).to(torch.uint8) * 255)[None] for label in labels]
    found = {}
    for weight in (0.0, 1.0):
        settings = DenseSettings(
            discrete=True, embedding_weight=weight, pair_cost=0.0, levels=1, steps=1, smoothness=0.1
        )
        found[weight] = roi_to_dense(*masks, (1.0, 1.0), settings, images=(flat, flat), embeddings=channels(labels)).ddf
    assert not found[0.0].any()
    middle = found[1.0][0, :, 44:52, 22:30].flatten(1).mean(dim=1)
    torch.testing.assert_close(middle, torch.tensor([float(SHIFT), 0.0]), atol=2.0, rtol=0)


def test_embeddings_need_the_search():
    with pytest.raises(InputError, match="discrete"):
        DenseSettings(embedding_weight=1.0)
