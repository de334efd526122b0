# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Matching regions of two images by their prototypes: section 4.2 of Huang et al. 2024, "ROI Matching"."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ..common.errors import InputError


@dataclass(frozen=True, eq=False)
class Matches:
    """K pairs of regions, best first.

    Attributes:
        moving: (K,) region numbers of the moving image.
        fixed: (K,) region numbers of the fixed image.
        similarity: (K,) cosine similarity of the prototypes, in [0, 1].
        score: (K,) similarity times the position prior; pairs are chosen by it.
        best: highest similarity of any two regions, matched or not.
        certainty: (K,) agreement with the motion of neighbouring pairs, in (0, 1]; None if it was not judged.
        doubted: number of pairs dropped because they moved unlike their neighbours.
    """

    moving: Tensor
    fixed: Tensor
    similarity: Tensor
    score: Tensor
    best: float
    certainty: Tensor | None = None
    doubted: int = 0

    def __len__(self) -> int:
        return len(self.moving)


def cosine_similarity(moving: Tensor, fixed: Tensor) -> Tensor:
    """S (K_m, K_f) in [0, 1] of prototypes (K_m, C) and (K_f, C); opposite directions count as 0."""
    return (F.normalize(moving, dim=1) @ F.normalize(fixed, dim=1).T).clamp(0, 1)


def position_prior(moving_mm: Tensor, fixed_mm: Tensor, sigma_mm: float) -> Tensor:
    """Gaussian of the distance between centroids (K_m, n) and (K_f, n) in mm, (K_m, K_f) in (0, 1].

    Both are on the common working grid, after the initial alignment; at a distance of ``sigma_mm`` the prior is 0.61.
    """
    return torch.exp(-(torch.cdist(moving_mm.double(), fixed_mm.double()) ** 2) / (2 * sigma_mm**2)).float()


def match(
    similarity: Tensor,
    epsilon: float = 0.8,
    strategy: str = "greedy",
    max_pairs: int | None = None,
    prior: Tensor | None = None,
) -> Matches:
    """Chooses pairs so that each region is used at most once.

    Args:
        similarity: S (K_m, K_f) in [0, 1].
        epsilon: pairs need a similarity above this.
        strategy: "greedy" takes pairs by descending score as in the paper, "hungarian" maximises the summed score,
            "mutual" keeps pairs that are each other's best.
        max_pairs: number of best pairs to keep; None keeps all.
        prior: (K_m, K_f) factors in [0, 1]; the score is similarity times prior. A factor under 0.01 rules a pair out.

    Raises:
        InputError: epsilon outside [0, 1], unknown strategy, or max_pairs below 1.
    """
    check_settings(epsilon, strategy, max_pairs)
    allowed = similarity > epsilon
    score = similarity
    if prior is not None:
        allowed, score = allowed & (prior > 0.01), similarity * prior
    score = torch.where(allowed, score, torch.zeros_like(score))
    rows, columns = STRATEGIES[strategy](score)
    chosen = score[rows, columns] > 0
    rows, columns = rows[chosen], columns[chosen]
    order = score[rows, columns].argsort(descending=True, stable=True)[:max_pairs]
    rows, columns = rows[order], columns[order]
    best = float(similarity.max()) if similarity.numel() else 0.0
    return Matches(rows, columns, similarity[rows, columns], score[rows, columns], best)


def _greedy(score: Tensor) -> tuple[Tensor, Tensor]:
    free = score.clone()
    rows, columns = [], []
    for _ in range(min(score.shape) if score.numel() else 0):
        place = int(free.argmax())
        i, j = divmod(place, score.shape[1])
        if free[i, j] <= 0:
            break
        rows.append(i)
        columns.append(j)
        free[i], free[:, j] = 0, 0
    return torch.tensor(rows, dtype=torch.long), torch.tensor(columns, dtype=torch.long)


def _hungarian(score: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = linear_sum_assignment(score.numpy(), maximize=True)
    return torch.as_tensor(rows), torch.as_tensor(columns)


def _mutual(score: Tensor) -> tuple[Tensor, Tensor]:
    if not score.numel():
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    rows = torch.arange(score.shape[0])
    columns = score.argmax(dim=1)
    mutual = score.argmax(dim=0)[columns] == rows
    return rows[mutual], columns[mutual]


STRATEGIES = {"greedy": _greedy, "hungarian": _hungarian, "mutual": _mutual}


def check_settings(epsilon: float, strategy: str, max_pairs: int | None) -> None:
    """Raises :class:`InputError` for settings that :func:`match` cannot use, before any image is segmented."""
    if not 0 <= epsilon <= 1:
        raise InputError(f"epsilon must lie in [0, 1], got {epsilon}.")
    if strategy not in STRATEGIES:
        raise InputError(f"matching must be one of {', '.join(STRATEGIES)}, got {strategy!r}.")
    if max_pairs is not None and max_pairs < 1:
        raise InputError(f"max_pairs must be at least 1, got {max_pairs}.")
