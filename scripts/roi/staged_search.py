# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Searches from large cells to small ones, each through what the earlier ones found: the start of the dense field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..spatial.warp import compose, resize_ddf, warp
from .discrete import SearchSettings, search
from .image_terms import ImageTerm
from .mask_grids import shrink_masks

Stage = tuple[float, int]  # cell and reach, see SearchSettings
STAGES: tuple[Stage, ...] = ((4.0, 4), (2.0, 3))
MASK_VOXELS = 100_000  # masks are compared on cells, so they are kept on a grid of at most so many voxels


@dataclass(frozen=True, eq=False)
class Found:
    """What the stages found together.

    Attributes:
        forward: (1, n, *shape) voxels of the grid of the features: displacement before the linear start.
        backward: (1, n, *shape) its inverse, as far as both directions agree.
        width: (1, 1, *cells) of the first stage, whose window is the widest; see :class:`Searched`. None unless asked
            for.
    """

    forward: Tensor
    backward: Tensor
    width: Tensor | None


def mask_weights(masks: Tensor, share: float) -> Tensor:
    """Weights (K,) of masks in the costs: 1 / voxels^0.3, so that large ones do not dominate, of mean ``share``."""
    if not len(masks):
        return torch.zeros(0)
    weights = torch.stack([(mask > 127).sum() for mask in masks]).clamp_min(1).float().cpu() ** -0.3
    return share * weights / weights.mean()


def staged_search(
    term: ImageTerm,
    spacing: Sequence[float],
    stages: Sequence[Stage],
    start: Tensor,
    masks: tuple[Tensor, Tensor] | None = None,
    weights: Tensor | None = None,
    width: bool = True,
) -> Found:
    """Runs the stages.

    Args:
        term: features of both images on their grid.
        spacing: mm of that grid.
        stages: cell and reach of each search.
        start: (1, n, *shape) linear start, voxels of that grid.
        masks: moving and fixed region masks (K, *any grid) uint8.
        weights: (K,) of the masks.
        width: also measures how sure the first stage is.
    """
    shape = tuple(term.fixed.shape[2:])
    forward = backward = torch.zeros_like(start)
    spread = None
    regions = None if masks is None or not len(masks[0]) else [_small(m, spacing) for m in masks]
    for cell, reach in stages:
        path = forward + warp(start, forward)  # compose(start, forward)
        moving = warp(term.moving, path)[0]
        valid = None if term.valid is None else (warp(term.valid[0], path)[0, 0], term.valid[1][0, 0])
        pairs = None
        if regions is not None:
            small = resize_ddf(path, regions[0].shape[1:])
            pairs = warp(regions[0][None], small, padding="zeros")[0], regions[1]
        stage, wanted = SearchSettings(cell, reach), width and spread is None
        found = search(moving, term.fixed[0], spacing, stage, masks=pairs, weights=weights, valid=valid, width=wanted)
        forward = compose(forward, resize_ddf(found.forward, shape))
        backward = compose(resize_ddf(found.backward, shape), backward)
        spread = found.width if wanted else spread
    return Found(forward, backward, spread)


def _small(masks: Tensor, spacing: Sequence[float]) -> Tensor:
    """Masks (K, *grid) as floats in [0, 1] on a grid that is coarse enough to keep them all."""
    shape = tuple(masks.shape[1:])
    shrink = max(1.0, (math.prod(shape) / MASK_VOXELS) ** (1 / sum(s > 16 for s in shape) if max(shape) > 16 else 1))
    fewer = tuple(max(1, round(s / shrink)) if s > 16 else s for s in shape)
    return shrink_masks(masks, fewer, torch.float32) / 255
