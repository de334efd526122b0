# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Masks of corresponding structures, and the motion of each pair under a field."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def structure_pairs(labels: Tensor) -> tuple[Tensor, Tensor] | None:
    """Coverage (S, *shape) uint8 0 or 255 of the structures in both label maps (2, *shape); None if there are none."""
    labels = labels.round()
    common = [v for v in labels[0].unique().tolist() if v > 0 and (labels[1] == v).any()]
    if not common:
        return None
    return tuple(torch.stack([side == v for v in common]).to(torch.uint8) * 255 for side in labels)


def pair_motion(ddf: Tensor, fixed_masks: Sequence[Tensor], spacing: Sequence[float]) -> Tensor:
    """Mean length of the displacement in the fixed region of each pair, (K,) mm.

    Args:
        ddf: (1, n, *shape) voxels.
        fixed_masks: coverage (*shape) of K masks.
        spacing: mm.
    """
    if not len(fixed_masks):  # the field was found from the images alone
        return torch.zeros(0)
    motion = ddf[0] * ddf.new_tensor(spacing).view(-1, *[1] * len(spacing))
    length = motion.square().sum(dim=0).sqrt()  # norm() takes 40 times as long
    masks = (mask.to(length.device) for mask in fixed_masks)
    return torch.stack([(length * m).sum() / m.sum().clamp_min(1) for m in masks]).cpu()
