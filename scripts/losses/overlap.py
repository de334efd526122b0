# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Region losses of corresponding masks: soft Dice and mean squared error, one value a structure."""

from __future__ import annotations

from torch import Tensor


def soft_dice_loss(a: Tensor, b: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - Dice of soft masks.

    Args:
        a: (K, *shape) in [0, 1].
        b: same shape.
        smooth: keeps two empty masks at 0.

    Returns:
        (K,) losses in [0, 1].

    Reference:
        equation 10 of Xu et al., IPMI 2025.
    """
    a, b = a.flatten(1), b.flatten(1)
    return 1 - (2 * (a * b).sum(dim=1) + smooth) / (a.sum(dim=1) + b.sum(dim=1) + smooth)


def roi_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error plus Dice loss of each pair of masks, L_roi of equation 2 of Huang et al. 2024.

    The sums below the fraction are of squares (Milletari et al., 3DV 2016): for binary masks this is the Dice
    coefficient; for the fractions along a border it is greatest where both masks agree, so an image registered with
    itself stays.

    Args:
        a: (K, *shape) in [0, 1].
        b: same shape.

    Returns:
        (K,).
    """
    a, b = a.flatten(1), b.flatten(1)
    overlap = (2 * (a * b).sum(dim=1) + 1e-5) / (a.square().sum(dim=1) + b.square().sum(dim=1) + 1e-5)
    return (a - b).square().mean(dim=1) + 1 - overlap
