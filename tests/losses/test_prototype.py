"""Prototypes: pooled means, contrast with the right sign, alignment."""

from __future__ import annotations

import math

import pytest
import torch

from scripts.common.errors import InputError
from scripts.losses.pair import LossPair, structure_masks
from scripts.losses.prototype import (
    PrototypeAlignment,
    PrototypeContrast,
    prototype_alignment,
    prototype_contrast,
    prototypes,
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
    masks = structure_masks(labels(), 2)
    moving, fixed = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
    moving[0, :4], moving[1, 4:6] = 1, 2
    fixed[0, :4], fixed[0, 4:6] = 3, -1
    assert float(prototype_alignment(moving, fixed, masks, masks)) == pytest.approx(0 + 1)
    only_first = masks * torch.tensor([1.0, 0.0]).view(2, 1, 1)
    assert float(prototype_alignment(moving, fixed, masks, only_first)) == pytest.approx(0, abs=1e-6)


def slow_terms(moving, fixed, moving_labels, fixed_labels) -> tuple[float, float]:
    """Equations 3 to 6, voxel by voxel: the contrast averaged over the images, and the alignment."""

    def cosine(x, y):
        return float(x @ y / (x.norm() * y.norm()))

    contrasts, centres = [], []
    for features, x in ((moving, moving_labels), (fixed, fixed_labels)):
        centre = {k: features[:, x == k].sum(dim=1) / (x == k).sum() for k in (1, 2)}
        values = []
        for i, j in (x > 0).nonzero().tolist():
            exps = {k: math.exp(cosine(features[:, i, j], centre[k])) for k in centre}
            values.append(-math.log(exps[int(x[i, j])] / sum(exps.values())))
        contrasts.append(sum(values) / len(values))
        centres.append(centre)
    return sum(contrasts) / 2, sum(1 - cosine(centres[0][k], centres[1][k]) for k in (1, 2))


def term_pair(seed=0) -> tuple[LossPair, list[torch.Tensor]]:
    """Features of two levels; the masks of the two images differ."""
    torch.manual_seed(seed)
    x = labels()
    features = [torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4)]
    pair = LossPair(
        torch.rand(2, 8, 8), torch.stack([x, x.flip(0)]), 2, (1.0, 1.0), [tuple(f) for f in features],
        torch.stack([x, x.flip(0)]),
    )  # fmt: skip
    return pair, features


def test_terms_equal_the_equations_on_their_level():
    pair, features = term_pair()
    x = pair.labels
    for level, at in ((0, x), (1, x[:, ::2, ::2])):
        contrast, alignment = slow_terms(*features[level], *at)
        assert float(PrototypeContrast(level=level)(None, pair)) == pytest.approx(contrast, rel=1e-4)
        assert float(PrototypeAlignment(level=level)(None, pair)) == pytest.approx(alignment, rel=1e-4)
    assert float(PrototypeContrast()(None, pair)) == float(PrototypeContrast(level=1)(None, pair))
    with pytest.raises(InputError, match="2 feature levels, so the prototype terms cannot use level 2"):
        PrototypeAlignment(level=2)(None, pair)


def test_a_step_on_the_features_lowers_both():
    torch.manual_seed(0)
    x = torch.stack([labels(), labels()])
    moving, fixed = (torch.randn(4, 8, 8, requires_grad=True) for _ in range(2))

    def values(m, f):
        pair = LossPair(x, x, 2, (1.0, 1.0), [(m, f)], x)
        return PrototypeContrast(level=0)(None, pair), PrototypeAlignment(level=0)(None, pair)

    before = values(moving, fixed)
    sum(before).backward()
    after = values(moving.detach() - 5 * moving.grad, fixed.detach() - 5 * fixed.grad)
    assert all(float(b) < float(a) for a, b in zip(before, after))


def test_gradcheck():
    masks = structure_masks(labels(), 2).double()
    features = torch.randn(2, 8, 8, dtype=torch.float64, requires_grad=True)

    def both(f):
        return prototype_contrast(f, masks) + prototype_alignment(f, f.flip(1), masks, masks.flip(1))

    assert torch.autograd.gradcheck(both, features)
