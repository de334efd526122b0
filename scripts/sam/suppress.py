# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Overlap between masks and greedy suppression, as matrix products instead of loops over masks."""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_overlap(a: Tensor, b: Tensor, measure: str) -> Tensor:
    """Overlap (K, L) in [0, 1] of every mask (K, h, w) bool of one set with every mask (L, h, w) of another.

    ``measure`` is "iou", or "smaller" for the intersection over the smaller mask.
    """
    a, b = a.flatten(1).float(), b.flatten(1).float()
    common = a @ b.T
    areas = a.sum(dim=1)[:, None], b.sum(dim=1)[None]
    whole = torch.minimum(*areas) if measure == "smaller" else areas[0] + areas[1] - common
    return common / whole.clamp_min(1)


def keep_distinct(masks: Tensor, threshold: float, measure: str = "iou") -> Tensor:
    """Chooses masks (K, h, w), best first: (K,) bool, those that overlap no mask chosen before beyond the threshold."""
    beats = (pairwise_overlap(masks, masks, measure) > threshold).triu(1)
    keep = torch.ones(len(masks), dtype=torch.bool, device=masks.device)
    while True:  # reaches the greedy answer in as many rounds as the longest chain of suppressions
        settled = ~(beats & keep[:, None]).any(dim=0)
        if bool((settled == keep).all()):
            return keep
        keep = settled
