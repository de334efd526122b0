"""Losses that train Segment Anything, against naive implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from scripts.losses.sam import info_nce, mask_cost, match_outputs, soft_iou


def test_mask_cost_equals_the_formula_pair_by_pair():
    logits, targets = torch.randn(2, 3, 50) * 3, torch.rand(2, 2, 50)
    cost = mask_cost(logits, targets, focal_weight=20, gamma=2, alpha=0.6)
    p = logits[1, 2].sigmoid()
    t = targets[1, 0]
    focal = (0.6 * (1 - p) ** 2 * t * -p.log() + 0.4 * p**2 * (1 - t) * -(1 - p).log()).mean()
    overlap = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    assert float(cost[1, 2, 0]) == pytest.approx(float(20 * focal + overlap), rel=1e-4)


def test_matching_equals_hungarian():
    cost = torch.rand(20, 3, 3)
    valid = torch.rand(20, 3) > 0.3
    valid[:, 0] = True
    found = match_outputs(cost, valid)
    for k in range(20):
        part = cost[k][:, valid[k]].numpy()
        rows, columns = linear_sum_assignment(part)
        assert float(found[k]) == pytest.approx(part[rows, columns].mean(), rel=1e-5)


def test_iou_counts():
    logits = torch.tensor([[[1.0, 1, -1, -1], [1, -1, -1, -1]]])
    targets = torch.tensor([[[1.0, 0, 0, 0], [1, 1, 1, 0]]])
    np.testing.assert_allclose(soft_iou(logits, targets)[0], [[1 / 2, 2 / 3], [1, 1 / 3]])


def test_info_nce_is_cross_entropy_for_one_positive_each():
    x = torch.randn(6, 4)
    positive = torch.zeros(6, 6, dtype=torch.bool)
    for i in range(0, 6, 2):
        positive[i, i + 1] = positive[i + 1, i] = True
    everything = torch.ones(6, 6, dtype=torch.bool)
    n = F.normalize(x, dim=1)
    logits = (n @ n.T / 0.1).masked_fill(torch.eye(6, dtype=torch.bool), float("-inf"))
    expected = F.cross_entropy(logits, torch.tensor([1, 0, 3, 2, 5, 4]))
    assert float(info_nce(x, positive, everything)) == pytest.approx(float(expected), rel=1e-5)
    assert float(info_nce(x, torch.zeros_like(positive), everything)) == 0


def test_info_nce_falls_when_positives_meet():
    positive = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)) > 0
    everything = torch.ones(4, 4, dtype=torch.bool)
    together = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    apart = together[[0, 2, 1, 3]]
    assert info_nce(together, positive, everything) < info_nce(apart, positive, everything) - 1
