"""Inverse consistency: fields that undo each other cost nothing, others the squared distance in mm."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks import Warp

from scripts.common.errors import InputError
from scripts.losses.consistency import InverseConsistency
from scripts.losses.pair import LossPair
from scripts.spatial.warp import integrate
from tests.conftest import smooth_field


def cost(ddf, inverse, spacing=(1.0, 1.0)):
    images = torch.zeros(2, *ddf.shape[2:])
    return InverseConsistency()(ddf, LossPair(images, images, 1, spacing, inverse=inverse))


def test_shifts():
    shift = torch.tensor([1.0, -0.5]).view(1, 2, 1, 1).expand(1, 2, 6, 8)
    assert float(cost(shift, -shift)) < 1e-12
    # Twice the same shift is off by 2 and -1 voxels of 3 and 2 mm.
    assert float(cost(shift, shift, (3.0, 2.0))) == pytest.approx(6**2 + 2**2)


def test_an_exponential_and_its_inverse():
    velocity = smooth_field((24, 20), 1.5)
    right, wrong = (float(cost(integrate(velocity), integrate(sign * velocity))) for sign in (-1, 1))
    assert right < 0.01 * wrong


def test_the_orders_are_averaged():
    a, b = smooth_field((7, 6), 1.5, 0), smooth_field((7, 6), 1.5, 1)
    warp = Warp("bilinear", "border")
    orders = [float((y + warp(x, y)).square().sum(dim=1).mean()) for x, y in ((a, b), (b, a))]
    assert abs(orders[0] - orders[1]) > 0.01
    assert float(cost(a, b)) == pytest.approx(sum(orders) / 2, rel=1e-4)


def test_gradient_flows_through_both_fields():
    a, b = (smooth_field((4, 5), 0.3, seed).double().requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda x, y: cost(x, y, (2.0, 1.0)), (a, b), atol=1e-4)


def test_without_the_other_direction_it_says_what_to_do():
    with pytest.raises(InputError, match="give --inverse_weight"):
        cost(torch.zeros(1, 2, 4, 4), None)
