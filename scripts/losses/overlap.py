# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Region losses of corresponding masks: soft Dice and mean squared error, one value per structure."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..spatial.warp import warp
from .pair import LossPair


def soft_dice_loss(a: Tensor, b: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - Dice (K,) of soft masks (K, *shape) in [0, 1]; ``smooth`` keeps two empty masks at 0.

    Reference:
        equation 10 of Xu et al., IPMI 2025.
    """
    a, b = a.flatten(1), b.flatten(1)
    return 1 - (2 * (a * b).sum(dim=1) + smooth) / (a.sum(dim=1) + b.sum(dim=1) + smooth)


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
        moved, look = warp(moving[None], ddf)[0], pair.look(ddf)
        moved, fixed = (moved, fixed) if look is None else (moved * look[0], fixed * look[0])
        return soft_dice_loss(moved, fixed).mean()
