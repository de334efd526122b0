# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Losses of a promptable segmentation model: focal + Dice over ambiguous masks, mask quality, feature contrast."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F


def mask_cost(
    logits: Tensor, targets: Tensor, focal_weight: float = 10.0, gamma: float = 1.0, alpha: float = 0.5
) -> Tensor:
    """Focal + Dice loss (B, O, T) of every output against every target.

    Args:
        logits: (B, O, N) mask logits.
        targets: (B, T, N) soft masks in [0, 1].
        focal_weight: weight of the focal term against Dice (20 in Kirillov et al. 2023, section A).
        gamma: focusing parameter of the focal loss (Lin et al. 2017); 2 there, less gives steeper edges sooner.
        alpha: weight of foreground pixels.
    """
    p = logits.sigmoid()
    on = alpha * (1 - p) ** gamma * F.softplus(-logits)
    off = (1 - alpha) * p**gamma * F.softplus(logits)
    # Both terms are linear in the target, so all pairs are matrix products rather than a (B, O, T, N) tensor.
    focal = torch.einsum("bon,btn->bot", on - off, targets) + off.sum(dim=-1, keepdim=True)
    overlap = torch.einsum("bon,btn->bot", p, targets)
    total = p.sum(dim=-1)[:, :, None] + targets.sum(dim=-1)[:, None]
    return focal_weight * focal / logits.shape[-1] + 1 - (2 * overlap + 1) / (total + 1)


def match_outputs(cost: Tensor, valid: Tensor) -> Tensor:
    """Assigns each valid target its own output so that the summed cost is least.

    Args:
        cost: (B, O, T) with T <= O.
        valid: (B, T) bool.

    Returns:
        (B,) mean cost of the matched valid targets.
    """
    outputs, targets = cost.shape[1:]
    orders = torch.tensor(list(permutations(range(outputs), targets)), device=cost.device)
    columns = torch.arange(targets, device=cost.device)
    masked = cost * valid[:, None]
    totals = masked[:, orders, columns].sum(dim=-1)
    return totals.min(dim=1).values / valid.sum(dim=1).clamp_min(1)


def soft_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of thresholded outputs (B, O, N) with every thresholded target (B, T, N): (B, O, T)."""
    a, b = (logits > 0).float(), (targets > 0.5).float()
    overlap = torch.einsum("bon,btn->bot", a, b)
    return overlap / (a.sum(dim=-1)[:, :, None] + b.sum(dim=-1)[:, None] - overlap).clamp_min(1)


def info_nce(features: Tensor, positive: Tensor, candidate: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, equation 2): pulls positives together, pushes candidates apart.

    Args:
        features: (N, C), normalised here.
        positive: (N, N) bool, the pairs that belong together; the diagonal is ignored.
        candidate: (N, N) bool, the pairs in the denominator; positives are added to it, the diagonal is not.
        temperature: of the softmax over cosine similarities.

    Returns:
        mean over the rows that have a positive; 0 where none has.
    """
    features = F.normalize(features, dim=-1)
    eye = torch.eye(len(features), dtype=torch.bool, device=features.device)
    positive = positive & ~eye
    logits = (features @ features.T / temperature).masked_fill(~(candidate | positive) | eye, float("-inf"))
    rows = positive.any(dim=1)
    if not rows.any():
        return features.sum() * 0
    logits, positive = logits[rows], positive[rows]
    log_prob = logits - logits.logsumexp(dim=1, keepdim=True)
    return -(log_prob.masked_fill(~positive, 0.0).sum(dim=1) / positive.sum(dim=1)).mean()
