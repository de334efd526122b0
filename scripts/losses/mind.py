# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""MIND-SSC: each voxel described by the self-similarity around it, which does not depend on contrast."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .similarity import local_mean

THICK = 3.0  # an axis whose voxels are this many times as long as the shortest has no neighbours


def neighbour_pairs(
    dilation: int, spacing: Sequence[float], shape: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The two offsets in voxels that each channel compares: all pairs of neighbours that are not opposite.

    Args:
        dilation: distance of a neighbour, in voxels of the axis with the shortest voxels.
        spacing: size of a voxel along each axis.
        shape: an axis of one voxel has no neighbours, nor has one along which voxels are ``THICK`` times as long.
    """
    finest = min(d for d, s in zip(spacing, shape) if s > 1) if max(shape) > 1 else 1.0
    wide = [a for a, (d, s) in enumerate(zip(spacing, shape)) if s > 1 and d < THICK * finest]
    neighbours = [
        tuple(sign * max(1, round(dilation * finest / spacing[a])) if axis == a else 0 for axis in range(len(shape)))
        for a in wide
        for sign in (-1, 1)
    ]
    return [(p, q) for p, q in itertools.combinations(neighbours, 2) if any(a + b for a, b in zip(p, q))]


def mind(image: Tensor, radius: int = 1, dilation: int = 2, spacing: Sequence[float] | None = None) -> Tensor:
    """Self-similarity context of the modality-independent neighbourhood descriptor (MIND-SSC).

    A voxel has two neighbours along each axis. For each pair of them that are not opposite, D is the mean squared
    difference of the patches around them. The descriptor is ``exp(-(D - min D) / V)``, where V is the mean of
    ``D - min D`` over the channels, at least a thousandth of its mean over the image.

    Args:
        image: (B, C, H, W[, D]); the differences of several colours are averaged.
        radius: half width of the patches in voxels.
        dilation: distance of the neighbours in voxels.
        spacing: mm along each axis; None for cubic voxels. Along longer voxels radius and dilation are shorter, and an
            axis with voxels at least three times as long as the shortest is ignored, so thick slices are described one
            by one.

    Returns:
        (B, 12, H, W, D) in [0, 1]; (B, 4, H, W[, D]) for images and for stacks of thick slices.

    Raises:
        ValueError: radius or dilation below 1, or an image of fewer than two voxels along two axes.

    Reference:
        Heinrich et al., MICCAI 2013, "Towards realtime multimodal fusion for image-guided interventions using
        self-similarities".
    """
    if radius < 1 or dilation < 1:
        raise ValueError(f"MIND needs a radius and a dilation of at least 1, got {radius} and {dilation}.")
    shape = tuple(image.shape[2:])
    spacing = [1.0] * len(shape) if spacing is None else list(spacing)
    pairs = neighbour_pairs(dilation, spacing, shape)
    if not pairs:
        raise ValueError(f"MIND needs at least two axes with more than one voxel, got a grid of {shape}.")
    reach = [max(abs(p[a]) for pair in pairs for p in pair) for a in range(len(shape))]
    finest = min(d for d, r in zip(spacing, reach) if r)
    kernel = [2 * round(radius * finest / d) + 1 if r else 1 for d, r in zip(spacing, reach)]
    padded = F.pad(image.float(), [r for r in reversed(reach) for _ in range(2)], mode="replicate")

    def at(offset: Sequence[int]) -> Tensor:
        places = tuple(slice(r + o, r + o + s) for r, o, s in zip(reach, offset, shape))
        return padded[(..., *places)]

    distances = [local_mean((at(p) - at(q)).square().mean(dim=1, keepdim=True), kernel) for p, q in pairs]
    found = torch.cat(distances, dim=1)
    found -= found.amin(dim=1, keepdim=True)
    scale = found.mean(dim=1, keepdim=True)
    floor = 1e-3 * scale.mean(dim=tuple(range(1, scale.ndim)), keepdim=True)
    return found.div_(-torch.maximum(scale, floor).clamp_min(1e-12)).exp_()
