"""The Dice term in a box equals the Dice of whole volumes, with its gradient."""

from __future__ import annotations

import pytest
import torch

from scripts.losses.overlap import Dice, active_box, soft_dice_loss
from scripts.losses.pair import LossPair
from scripts.spatial.warp import identity_grid, warp

BOXES = {
    "inside": ((slice(6, 10), slice(7, 12), slice(3, 6)), (slice(9, 13), slice(4, 9), slice(2, 5))),
    "at the far border": ((slice(15, 20), slice(7, 12), slice(3, 9)), (slice(12, 16), slice(12, 18), slice(4, 9))),
    "at the near border": ((slice(0, 4), slice(0, 5), slice(0, 4)), (slice(2, 6), slice(3, 8), slice(2, 5))),
}


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("where", BOXES)
def test_value_and_gradient_are_those_of_the_whole_volume(where, excluded):
    shape = (20, 18, 9)
    labels = torch.zeros(2, *shape)
    for label, box in zip(labels, BOXES[where]):
        label[box] = 1
        label[(slice(box[0].start, box[0].start + 2), *box[1:])] = 2
    valid = (torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)) > 0.2).float() if excluded else None
    pair = LossPair(torch.rand(2, *shape), labels, 2, (1.0, 1.0, 2.0), valid=valid)
    noise = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    fields = [(noise * size).requires_grad_() for size in (3.0, 3.0)]

    loss = Dice()(fields[0], pair)
    moved, fixed = warp(pair.masks[0][None], fields[1])[0], pair.masks[1]
    look = pair.look(fields[1])
    moved, fixed = (moved, fixed) if look is None else (moved * look[0], fixed * look[0])
    expected = soft_dice_loss(moved, fixed).mean()
    loss.backward()
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    torch.testing.assert_close(fields[0].grad, fields[1].grad, rtol=1e-4, atol=1e-7)
    assert fields[1].grad.any()


def test_the_box_is_as_small_as_the_structures():
    moving, fixed = torch.zeros(1, 40, 30, 20), torch.zeros(1, 40, 30, 20)
    moving[:, 10:14, 5:9, 8:12], fixed[:, 20:22, 5:9, 8:12] = 1, 1
    place = identity_grid([40, 30, 20], moving.device, moving.dtype)[0]
    assert active_box(place, moving, fixed) == (slice(10, 22), slice(5, 9), slice(8, 12))
    moving[:, :3] = 1  # the border of the image goes on outside, so what is read there counts
    assert active_box(place - 100, moving, fixed) == (slice(0, 40), slice(0, 30), slice(0, 20))
