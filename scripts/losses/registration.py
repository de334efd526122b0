# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The terms of the overall loss of a registered pair, equation 11, each by itself."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..spatial.warp import warp
from .contour import contour_loss
from .overlap import soft_dice_loss
from .prototype import prototype_loss, structure_masks
from .similarity import lncc
from .smoothness import diffusion


def field_terms(
    ddf: Tensor,
    images: Tensor,
    labels: Tensor,
    structures: int,
    spacing: Sequence[float],
    lncc_kernel: int = 9,
    max_points: int | None = 1024,
) -> dict[str, Tensor]:
    """What is asked of the field of one pair.

    Args:
        ddf: (1, n, *shape) voxels.
        images: (2, *shape) moving and fixed image.
        labels: (2, *shape) moving and fixed labels 1 to ``structures``; 0 elsewhere.
        structures: number K.
        spacing: mm along each axis.
        lncc_kernel: window of the correlation in voxels.
        max_points: of a contour.

    Returns:
        "lncc" is 1 - LNCC (equation 8), "diffusion" the squared gradient (equation 9), "dice" the Dice loss averaged
        over the structures present (equation 10), "contour" the Chamfer distance in mm squared (equation 7).
    """
    masks = [structure_masks(x, structures) for x in labels]
    both = [m.flatten(1).any(dim=1) for m in masks]
    both = both[0] & both[1]
    moved = warp(images[None, 0:1], ddf)
    terms = {
        "lncc": 1 - lncc(moved, images[None, 1:2], lncc_kernel),
        "diffusion": diffusion(ddf, spacing),
        "dice": ddf.sum() * 0,
        "contour": contour_loss(ddf, *labels, structures, spacing, max_points),
    }
    if both.any():
        terms["dice"] = soft_dice_loss(warp(masks[0][None, both], ddf)[0], masks[1][both]).mean()
    return terms


def feature_terms(
    moving: Tensor, fixed: Tensor, labels: Tensor, structures: int, temperature: float = 1.0
) -> dict[str, Tensor]:
    """What is asked of the features of one pair, "contrast" (equation 4) and "alignment" (equation 5).

    Args:
        moving: (C, *level) features.
        fixed: (C, *level) features.
        labels: (2, *shape) labels on the same extent as the features.
        structures: number K.
        temperature: of the contrast.
    """
    masks = [structure_masks(x, structures, tuple(moving.shape[1:])) for x in labels]
    contrast, alignment = prototype_loss(moving, fixed, *masks, temperature)
    return {"contrast": contrast, "alignment": alignment}
