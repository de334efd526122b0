"""Dice loss of the segmentation head: analytic values, a gradient, and its inputs."""

from __future__ import annotations

import pytest
import torch

from scripts.common.errors import InputError
from scripts.losses.pair import LossPair
from scripts.losses.segmentation import Segmentation


def pair(logits, labels) -> LossPair:
    """The moving label map differs, because the term must not look at it."""
    labels = torch.stack([labels.flip(0), labels]).float()
    return LossPair(torch.rand(2, *labels.shape[1:]), labels, 3, (1.0, 1.0), feature_labels=labels, logits=logits)


LABELS = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 2, 0], [0, 0, 0, 0]])
FIELD = torch.zeros(1, 2, 4, 4)


def test_a_sure_and_right_prediction_costs_nothing():
    logits = 50.0 * torch.nn.functional.one_hot(LABELS, 4).movedim(-1, 0)
    assert float(Segmentation()(FIELD, pair(logits, LABELS))) == pytest.approx(0, abs=1e-5)
    assert float(Segmentation()(FIELD, pair(logits.flip(1), LABELS))) > 0.4


def test_an_undecided_prediction_has_the_dice_of_a_quarter_everywhere():
    # 2 * sum(p m) / (sum p + sum m) with p = 1/4 on 16 voxels; structure 3 is absent and does not count.
    dice = [2 * n / 4 / (16 / 4 + n) for n in (4, 1)]
    found = float(Segmentation()(FIELD, pair(torch.zeros(4, 4, 4), LABELS)))
    assert found == pytest.approx(1 - sum(dice) / 2, abs=1e-5)


def test_gradient():
    logits = torch.randn(4, 4, 4, requires_grad=True)
    Segmentation()(FIELD, pair(logits, LABELS)).backward()
    inside = LABELS == 2
    assert float(logits.grad[2][inside]) < 0 < float(logits.grad[1][inside])  # more of 2 and less of 1 lowers the loss
    logits = torch.randn(4, 4, 4, requires_grad=True)
    nothing = Segmentation()(FIELD, pair(logits, LABELS * 0))
    nothing.backward()
    assert float(nothing.detach()) == 0 and not logits.grad.any()


def test_without_a_head_it_says_what_to_do():
    with pytest.raises(InputError, match="give --segmentation_weight"):
        Segmentation()(FIELD, pair(None, LABELS))
