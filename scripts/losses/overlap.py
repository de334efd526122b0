# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Region losses of corresponding masks: soft Dice and mean squared error, one value per structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import find_objects
from torch import Tensor

from ..spatial.warp import identity_grid, sample
from .pair import LossPair


def soft_dice_loss(a: Tensor, b: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - Dice (K,) of soft masks (K, *shape) in [0, 1]; ``smooth`` keeps two empty masks at 0.

    Reference:
        equation 10 of Xu et al., IPMI 2025.
    """
    a, b = a.flatten(1), b.flatten(1)
    return 1 - (2 * (a * b).sum(dim=1) + smooth) / (a.sum(dim=1) + b.sum(dim=1) + smooth)


def active_box(place: Tensor, moving: Tensor, fixed: Tensor) -> tuple[slice, ...]:
    """Box of the fixed grid outside which the moved and the fixed masks are all 0.

    Args:
        place: (n, *shape) voxels of the moving image that are read.
        moving: (K, *shape) masks, not all 0.
        fixed: (K, *shape) masks, not all 0.
    """

    def box(mask: Tensor) -> tuple[slice, ...]:
        return find_objects(mask.cpu().numpy().astype(np.uint8))[0]

    active = torch.ones_like(fixed[0], dtype=torch.bool)
    for where, span, size in zip(place, box(moving.any(dim=0)), moving.shape[1:]):
        # A voxel is read together with its neighbours; beyond the border of the image the border goes on.
        if span.start > 0:
            active &= where > span.start - 1
        if span.stop < size:
            active &= where < span.stop
    return box(active | fixed.any(dim=0))


@dataclass
class Dice:
    """Dice loss of the moved and the fixed masks, mean over the structures in both images, 0 if there are none.

    A :class:`scripts.losses.pair.Term` (equation 10).
    """

    weight: float = 1.0

    def __call__(self, ddf: Tensor, pair: LossPair) -> Tensor:
        moving, fixed = pair.masks
        if not len(moving):
            return ddf.sum() * 0
        place = identity_grid(ddf.shape[2:], ddf.device, ddf.dtype) + ddf
        box = (..., *active_box(place[0].detach(), moving, fixed))
        fixed, look = fixed[box], pair.look(ddf)
        moved = sample(moving[None], place[box])[0]
        moved, fixed = (moved, fixed) if look is None else (moved * look[0][box], fixed * look[0][box])
        return soft_dice_loss(moved, fixed).mean()
