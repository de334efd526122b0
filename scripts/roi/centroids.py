# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Closed-form start of the dense field: the linear map that best carries fixed ROI centroids to moving ones."""

from __future__ import annotations

import torch
from torch import Tensor


def fit_centroids(
    moving_mm: Tensor, fixed_mm: Tensor, weights: Tensor, extent_mm: float, ridge: float = 0.05
) -> Tensor:
    """Ridge-regularised, outlier-resistant affine fit, fixed to moving.

    Minimises ``sum_k w_k |B x_k + t - y_k|^2 + ridge * W * extent^2 |B - I|^2``: one pair gives a translation, many
    pairs spread over the image give an affine map, and cases between give a compromise. Three rounds of Huber
    reweighting reduce the influence of wrong pairs.

    Args:
        moving_mm: (K, n) centroids, mm from the corner of the working grid, K >= 1.
        fixed_mm: (K, n).
        weights: (K,) positive.
        extent_mm: size of the image, mm; with ``ridge`` it sets the spread from which the pairs are trusted.
        ridge: strength of the penalty on all but a translation.

    Returns:
        (n, n + 1) matrix [B | t].
    """
    x, y = fixed_mm.double(), moving_mm.double()
    base = weights.double()
    n = x.shape[1]
    eye = torch.eye(n, dtype=torch.float64)
    current = base
    for _ in range(4):
        share = (current / current.sum())[:, None]
        mean_x, mean_y = (share * x).sum(dim=0), (share * y).sum(dim=0)
        dx, dy = x - mean_x, y - mean_y
        penalty = ridge * (extent_mm / 4) ** 2 * eye
        b = ((share * dy).T @ dx + penalty) @ torch.linalg.inv((share * dx).T @ dx + penalty)
        t = mean_y - b @ mean_x
        residual = (x @ b.T + t - y).norm(dim=1)
        limit = 1.5 * residual.median() + 1e-6
        current = base * (limit / residual.clamp_min(1e-9)).clamp_max(1)
    return torch.cat([b, t[:, None]], dim=1).float()
