"""Doubt about pairs: a pair that moves against its neighbours loses weight, a smooth motion loses none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.common.errors import InputError
from scripts.correspondence.slicing import plan_slices
from scripts.roi.consistency import certainty, cycle_consistent, weighted_median
from scripts.roi.matcher import Matcher
from scripts.roi.pair_loss import PairLoss
from scripts.roi.regions import SliceRegions
from scripts.spatial.geometry import Geometry

GRID = torch.cartesian_prod(*[torch.arange(5.0) * 20, torch.arange(4.0) * 20])


def affine(points: torch.Tensor) -> torch.Tensor:
    return points @ torch.tensor([[1.1, 0.15], [-0.1, 0.95]]) + torch.tensor([9.0, -4.0])


def test_a_smooth_motion_raises_no_doubt_and_one_wrong_pair_does():
    moving = affine(GRID)
    sure = certainty(moving, GRID, torch.ones(20), torch.full((20,), 8.0))
    assert sure.min() > 0.25
    moving[7] += torch.tensor([25.0, -18.0])
    sure = certainty(moving, GRID, torch.ones(20), torch.full((20,), 8.0))
    others = torch.arange(20) != 7
    assert sure[7] < 0.05 and sure[others].min() > 0.25


def test_few_pairs_and_no_strictness_trust_everything():
    moving = affine(GRID)
    moving[0] += 50
    assert torch.equal(certainty(moving[:3], GRID[:3], torch.ones(3), torch.ones(3)), torch.ones(3))
    assert torch.equal(certainty(moving, GRID, torch.ones(20), torch.ones(20), strictness=0), torch.ones(20))


def test_weighted_median_repeats_values_by_their_weight():
    torch.manual_seed(0)
    values, weights = torch.rand(6, 5), torch.randint(1, 6, (6, 5))
    for row, share, found in zip(values, weights, weighted_median(values, weights)):
        assert found == torch.quantile(row.repeat_interleave(share), 0.5, interpolation="lower")


def test_cycle_consistency_names_pairs_that_are_nobodys_best():
    score = torch.tensor([[0.9, 0.8, 0.1], [0.95, 0.2, 0.1], [0.1, 0.1, 0.7]])
    rows, columns = torch.tensor([1, 0, 2]), torch.tensor([0, 1, 2])
    assert cycle_consistent(score, rows, columns).tolist() == [True, False, True]


def regions(places: torch.Tensor, prototypes: torch.Tensor, grid: Geometry) -> SliceRegions:
    ones = torch.ones(len(places))
    return SliceRegions(prototypes, ones * 200, places, ones, plan_slices(grid), [], [], ones * 0)


def test_the_matcher_drops_a_pair_that_contradicts_its_neighbours():
    grid = Geometry((100, 100), np.diag([1.0, 1.0, 1.0, 1.0]))
    prototypes = torch.eye(20)
    moving = affine(GRID)
    moving[7] += torch.tensor([40.0, -30.0])
    pair = regions(moving, prototypes, grid), regions(GRID, prototypes, grid)
    trusting = Matcher(strictness=0)(*pair, grid)
    assert len(trusting) == 20 and trusting.certainty is None
    strict = Matcher(strictness=1.0)(*pair, grid)
    assert strict.doubted == 1 and 7 not in strict.fixed.tolist()
    assert len(strict.certainty) == len(strict) == 19
    assert torch.equal(strict.moving, strict.fixed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 1.5}, "got 1.5"),
        ({"position_sigma_mm": -4}, "position_sigma_mm must not be negative, got -4"),
        ({"strictness": -1}, "strictness must not be negative, got -1"),
        ({"least_certainty": 1}, "least_certainty must lie in"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(InputError, match=message):
        Matcher(**options)


def test_weights_scale_the_loss_and_the_gradient_of_each_pair():
    torch.manual_seed(0)
    moving, fixed = (torch.randint(0, 256, (2, 12, 12), dtype=torch.uint8) for _ in range(2))
    ddf = torch.rand(1, 2, 12, 12)
    losses, gradients = [], []
    for k in range(2):
        gradients.append(torch.zeros_like(ddf))
        losses.append(PairLoss(moving[k : k + 1], fixed[k : k + 1])(ddf, gradients[-1]))
    gradient = torch.zeros_like(ddf)
    loss = PairLoss(moving, fixed, torch.tensor([0.25, 2.0]))(ddf, gradient)
    assert loss == pytest.approx(0.25 * losses[0] + 2 * losses[1], rel=1e-5)
    torch.testing.assert_close(gradient, 0.25 * gradients[0] + 2 * gradients[1])
