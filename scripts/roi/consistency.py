# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How well a pair of regions agrees with the pairs around it: wrong pairs bend the field, so they count less.

Neighbouring structures move similarly, in the same slice and in the next ones. So the motion of each pair is compared
with the prediction of its neighbours and with a robust affine fit of all pairs. The smaller error, divided by the usual
error of the whole set, gives the weight of Geman and McClure, as in Zhou et al. 2016, "Fast global
registration", section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .centroids import fit_centroids

NEIGHBOURS = 6  # pairs that predict the motion of another
FLOOR_MM = 2.0  # smaller disagreement never raises a doubt


def certainty(
    moving_mm: Tensor, fixed_mm: Tensor, weights: Tensor, radius_mm: Tensor, strictness: float = 1.0
) -> Tensor:
    """Certainty of K pairs in (0, 1].

    Args:
        moving_mm: (K, n) centroids, mm.
        fixed_mm: (K, n) centroids of their partners, mm.
        weights: (K,) positive weights of the pairs as predictors.
        radius_mm: (K,) radius of the fixed regions, mm; the centroid of a large region follows its outline and may
            disagree by a quarter of its radius.
        strictness: 0 trusts all pairs; 2 halves the allowed disagreement.

    Returns:
        (K,) 1 for a pair that moves as its neighbours do, 0.25 at the allowed disagreement. All ones for fewer than
        four pairs, among which a wrong one cannot be identified.
    """
    count = len(fixed_mm)
    if count < 4 or strictness == 0:
        return torch.ones(count)
    motion, place = (moving_mm - fixed_mm).double(), fixed_mm.double()
    distance = torch.cdist(place, place)
    distance.fill_diagonal_(float("inf"))
    near, index = distance.topk(min(NEIGHBOURS, count - 1), largest=False)
    share = weights.double()[index] / (near + near.median() / 4)
    predicted = torch.stack([weighted_median(motion[index][..., a], share) for a in range(motion.shape[1])], dim=1)
    fit = fit_centroids(moving_mm, fixed_mm, weights, float((place.amax(0) - place.amin(0)).max()), ridge=1e-3).double()
    overall = place @ fit[:, :-1].T + fit[:, -1] - place
    error = torch.minimum((motion - predicted).norm(dim=1), (motion - overall).norm(dim=1))
    usual = error.median() * 1.5
    allowed = torch.maximum(usual.expand_as(error), FLOOR_MM + radius_mm.double() / 4) / strictness
    return (1 / (1 + (error / allowed) ** 2) ** 2).float()


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted median (K,) along the rows of (K, m)."""
    order = values.argsort(dim=1)
    passed = weights.gather(1, order).cumsum(dim=1)
    first = (passed >= passed[:, -1:] / 2).int().argmax(dim=1, keepdim=True)
    return values.gather(1, order).gather(1, first)[:, 0]


def cycle_consistent(score: Tensor, rows: Tensor, columns: Tensor, margin: float = 0.02) -> Tensor:
    """Whether each pair is, within a margin, the best choice of both of its regions: (K,) bool.

    Args:
        score: (K_m, K_f) score of every two regions.
        rows: (K,) moving regions of the pairs.
        columns: (K,) fixed regions of the pairs.
        margin: by how much another choice may be better.
    """
    if not len(rows):
        return torch.zeros(0, dtype=torch.bool)
    own = score[rows, columns] + margin
    return (own >= score.amax(dim=1)[rows]) & (own >= score.amax(dim=0)[columns])
