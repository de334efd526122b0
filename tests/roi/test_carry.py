"""A region carried by features: exact for features that tell every place apart, and its box."""

from __future__ import annotations

import pytest
import torch

from scripts.roi.carry import boxes_of, carried, soft_iou
from scripts.sam.slice_masks import SliceMasks

CELLS, SIZE = 16, (96, 128)  # 12 x 16 cells show the slice


def slice_of(embedding: torch.Tensor, mask: torch.Tensor | None = None) -> SliceMasks:
    empty = SliceMasks.empty(embedding, (192, 256), 256, SIZE, 0.0)
    if mask is None:
        return empty
    one = torch.ones(1)
    cells = torch.nn.functional.interpolate(mask[None, None].float(), (48, 64), mode="area")[0]
    return empty.with_masks(cells * 12 - 6, one, one, torch.zeros(2))


@pytest.fixture(scope="module")
def places() -> torch.Tensor:
    """An embedding in which no two cells are alike."""
    return torch.randn(64, CELLS, CELLS, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shift", [(0, 0), (2, -3)])
def test_a_mask_moves_with_its_features(places, shift):
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[32:64, 40:72] = True  # whole cells of 8 pixels
    moved = mask.roll((8 * shift[0], 8 * shift[1]), (0, 1))
    shares = carried(slice_of(places, mask), slice_of(places.roll(shift, (1, 2))), sigma_px=1e3)
    expected = torch.zeros(CELLS, CELLS)
    expected[4 + shift[0] : 8 + shift[0], 5 + shift[1] : 9 + shift[1]] = 1
    known = slice(max(shift[0], 0), 12), slice(max(shift[1], 0), CELLS + min(shift[1], 0))  # other cells are new
    assert float(soft_iou(shares[known], expected[known])) > 0.95
    assert shares[12:].abs().max() == 0  # the padding belongs to nothing
    boxes = boxes_of(shares, slice_of(places))
    x0, y0, x1, y1 = 40 + 8 * shift[1], 32 + 8 * shift[0], 72 + 8 * shift[1], 64 + 8 * shift[0]
    torch.testing.assert_close(boxes, torch.tensor([[x0, y0, x1, y1]] * 2).float(), atol=3.0, rtol=0)
    assert moved[y0:y1, x0:x1].all()


def test_near_places_win_where_features_are_equal(places):
    alike = torch.ones_like(places)
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[32:64, 40:72] = True
    begin = slice_of(alike, mask)
    near, anywhere = (carried(begin, slice_of(alike), sigma_px=s) for s in (6.0, 1e5))
    assert near[5, 6] > 0.9 and near[5, 12] < 0.05
    assert anywhere[:12].std() < near[:12].std()


def test_the_box_is_that_of_the_main_blob():
    shares = torch.zeros(CELLS, CELLS)
    shares[2:4, 2:4], shares[6:11, 8:13] = 1.0, 0.9
    boxes = boxes_of(shares, slice_of(torch.zeros(4, CELLS, CELLS)))
    assert (boxes[:, 0] > 56).all() and (boxes[:, 2] < 112).all()


def test_soft_iou():
    a, b = torch.tensor([[1.0, 0.5]]), torch.tensor([[0.5, 0.5]])
    assert float(soft_iou(a, b)) == pytest.approx(1 / 1.5)
    assert float(soft_iou(torch.zeros(1, 2), torch.zeros(1, 2))) == 0
