"""Prototypes: pooled means, contrast with the right sign, alignment."""

from __future__ import annotations

import math

import pytest
import torch

from scripts.losses.prototype import (
    prototype_alignment,
    prototype_contrast,
    prototype_loss,
    prototypes,
    structure_masks,
)


def labels() -> torch.Tensor:
    x = torch.zeros(8, 8)
    x[:4], x[4:6] = 1, 2
    return x


def test_prototype_is_the_mean_under_the_mask():
    features = torch.randn(5, 8, 8)
    centres, known = prototypes(features, structure_masks(labels(), 3))
    torch.testing.assert_close(centres[0], features[:, :4].flatten(1).mean(dim=1))
    torch.testing.assert_close(centres[1], features[:, 4:6].flatten(1).mean(dim=1))
    assert known.tolist() == [True, True, False]


def test_small_structures_keep_a_weight_on_coarse_features():
    x = torch.zeros(16, 16)
    x[5, 5] = 1
    masks = structure_masks(x, 1, (4, 4))
    assert float(masks.sum()) == pytest.approx(1 / 16)
    assert prototypes(torch.randn(3, 4, 4), masks)[1].all()


def test_contrast_of_known_features():
    masks = structure_masks(labels(), 2)
    features = torch.zeros(2, 8, 8)
    features[0, :4], features[1, 4:] = 1, 1
    # Each voxel has cosine 1 with its own prototype and 0 with the other.
    assert float(prototype_contrast(features, masks)) == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-6)
    assert float(prototype_contrast(features, masks, 0.1)) == pytest.approx(math.log(1 + math.exp(-10)), abs=1e-6)
    features[1, 4:], features[0, 4:] = 0, 1
    assert float(prototype_contrast(features, masks)) == pytest.approx(math.log(2), abs=1e-6)


def test_contrast_falls_as_features_gather():
    torch.manual_seed(0)
    masks = structure_masks(labels(), 2)
    centres = torch.eye(4)[:, :2] @ masks.flatten(1)
    noise = torch.randn(4, 8, 8)
    values = [float(prototype_contrast(centres.view(4, 8, 8) + s * noise, masks)) for s in (2.0, 1.0, 0.5, 0.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 0.2


def test_one_structure_has_nothing_to_contrast():
    features = torch.randn(3, 8, 8, requires_grad=True)
    loss = prototype_contrast(features, structure_masks((labels() == 1).float(), 2))
    loss.backward()
    assert float(loss) == 0 and float(features.grad.abs().sum()) == 0


def test_alignment_counts_structures_in_both_images():
    known = torch.tensor([True, True, False])
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    b = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [9.0, -9.0]])
    assert float(prototype_alignment((a, known), (b, known))) == pytest.approx(0 + 1)


def test_a_step_on_the_features_lowers_both():
    torch.manual_seed(0)
    masks = structure_masks(labels(), 2)
    moving, fixed = (torch.randn(4, 8, 8, requires_grad=True) for _ in range(2))
    before = prototype_loss(moving, fixed, masks, masks)
    sum(before).backward()
    after = prototype_loss(moving.detach() - 5 * moving.grad, fixed.detach() - 5 * fixed.grad, masks, masks)
    assert all(float(b) < float(a) for a, b in zip(before, after))


def test_gradcheck():
    masks = structure_masks(labels(), 2).double()
    features = torch.randn(2, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: sum(prototype_loss(f, f.flip(1), masks, masks.flip(1))), features)
