"""Masks on a coarser grid equal area interpolation of whole masks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from scripts.roi.mask_grids import shrink_masks


@pytest.mark.parametrize(
    ("grid", "shape"),
    [((21, 40), (9, 40)), ((30, 26, 10), (11, 26, 7)), ((31, 9, 1), (40, 2, 1)), ((5, 4, 3), (5, 4, 3))],
)
def test_equals_area_interpolation_of_whole_masks(grid, shape):
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(4, *grid, generator=generator) * 256).to(torch.uint8)
    masks[0, 5:], masks[1, :, :3], masks[2] = 0, 0, 0
    whole = F.interpolate(masks[:, None].double(), shape, mode="area")[:, 0]
    torch.testing.assert_close(shrink_masks(masks, shape, torch.float32).double(), whole, atol=1e-3, rtol=0)
    found = shrink_masks(masks, shape)
    assert found.dtype == torch.uint8
    assert (found.double() - whole).abs().max() <= 0.5 + 1e-3
    assert found[:2].any() and not found[2].any()
