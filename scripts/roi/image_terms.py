# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""What the dense field sees of the images beside the regions: self-similarity (MIND) or local correlation (LNCC)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses.mind import mind
from ..losses.similarity import lncc
from ..spatial.geometry import coarser
from ..spatial.warp import warp

TERMS = ("mind", "lncc")


@dataclass(frozen=True, eq=False)
class ImageTerm:
    """Difference of the warped moving and the fixed image on one grid.

    Attributes:
        kind: "mind" or "lncc".
        moving: (1, C, *shape) descriptors or image.
        fixed: same shape.
        weight: factor of the term.
        valid: moving and fixed weight of the voxels (1, 1, *shape) in [0, 1], or None.
    """

    kind: str
    moving: Tensor
    fixed: Tensor
    weight: float
    valid: tuple[Tensor, Tensor] | None = None

    def __call__(self, ddf: Tensor, gradient: Tensor | None = None) -> float:
        """The weighted term at a field (1, n, *shape) in voxels; its derivative is added to ``gradient``."""
        leaf = ddf.detach().requires_grad_(gradient is not None)
        look = None if self.valid is None else self.valid[1] * warp(self.valid[0], ddf.detach())
        moved = warp(self.moving, leaf)
        if self.kind == "lncc":
            loss = 1 - lncc(moved, self.fixed, mask=look)
        else:
            error = (moved - self.fixed).square().mean(dim=1, keepdim=True)
            loss = error.mean() if look is None else (error * look).sum() / look.sum().clamp_min(1e-6)
        loss = self.weight * loss
        if gradient is not None:
            gradient += torch.autograd.grad(loss, leaf)[0]
        return float(loss.detach())

    def at(self, shape: Sequence[int]) -> ImageTerm:
        """The same term on a coarser grid."""
        valid = None if self.valid is None else tuple(_shrink(v, shape) for v in self.valid)
        return ImageTerm(self.kind, _shrink(self.moving, shape), _shrink(self.fixed, shape), self.weight, valid)


def image_term(
    images: tuple[Tensor, Tensor],
    spacing: Sequence[float],
    kind: str,
    weight: float,
    valid: tuple[Tensor, Tensor] | None = None,
    max_voxels: int = 700_000,
) -> ImageTerm:
    """Describes two images.

    Args:
        images: moving and fixed image (C, *shape) in [0, 1] on one grid.
        spacing: mm of the grid.
        kind: "mind" or "lncc".
        weight: of the term.
        valid: moving and fixed weight (*shape) of the voxels.
        max_voxels: larger images are averaged down first; thick slices stay.
    """
    whole = fewer = tuple(images[0].shape[1:])
    side = min(spacing)
    while math.prod(fewer) > max_voxels:
        side *= 1.05
        fewer = coarser(whole, spacing, side, 8)
    small = [_shrink(image[None].float(), fewer) for image in images]
    if kind == "mind":
        size = [d * s / f for d, s, f in zip(spacing, whole, fewer)]
        small = [mind(image, spacing=size) for image in small]
    looks = None if valid is None else tuple(_shrink(v[None, None].float(), fewer) for v in valid)
    return ImageTerm(kind, *small, weight, looks)


def _shrink(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x if tuple(x.shape[2:]) == tuple(shape) else F.interpolate(x, tuple(shape), mode="area")
