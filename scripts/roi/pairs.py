# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Masks of corresponding structures, and how far a field moves them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def structure_pairs(labels: Tensor) -> tuple[Tensor, Tensor] | None:
    """Coverage (S, *shape) uint8 0 or 255 of the structures that both label maps (2, *shape) have; None without any."""
    labels = labels.round()
    common = [v for v in labels[0].unique().tolist() if v > 0 and (labels[1] == v).any()]
    if not common:
        return None
    return tuple(torch.stack([side == v for v in common]).to(torch.uint8) * 255 for side in labels)


def pair_motion(ddf: Tensor, fixed_masks: Sequence[Tensor], spacing: Sequence[float]) -> Tensor:
    """How far the field moves each pair: mean length of the displacement in the fixed region, (K,) mm.

    Args:
        ddf: (1, n, *shape) voxels.
        fixed_masks: K masks (*shape), coverage.
        spacing: mm.
    """
    if not len(fixed_masks):  # the images alone led to the field
        return torch.zeros(0)
    length = (ddf[0] * ddf.new_tensor(spacing).view(-1, *[1] * len(spacing))).norm(dim=0)
    masks = (mask.to(length.device) for mask in fixed_masks)
    return torch.stack([(length * m).sum() / m.sum().clamp_min(1) for m in masks]).cpu()
