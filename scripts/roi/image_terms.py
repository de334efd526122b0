# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The image term of the dense field beside the regions: self-similarity (MIND) or local correlation (LNCC).

Two images of the same contrast hold more information than their self-similarity: blood is bright in both phases of a
heart. Their intensities are then one more channel beside the descriptors.
"""

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
ALIKE = 0.7  # least correlation of two images before registration for their intensities to be compared too


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
        """The weighted term for a field (1, n, *shape) in voxels; its derivative is added to ``gradient``."""
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
    intensity: float = 0.0,
) -> ImageTerm:
    """Describes two images.

    Args:
        images: moving and fixed image (C, *shape) in [0, 1] on one grid.
        spacing: mm of the grid.
        kind: "mind" or "lncc".
        weight: of the term.
        valid: moving and fixed weight (*shape) of the voxels.
        max_voxels: larger images are averaged down first; thick slices are kept.
        intensity: weight of the squared difference of the intensities beside that of MIND, which is the mean over its
            channels. It is ignored unless the images correlate by at least ``ALIKE`` before registration.
    """
    whole = fewer = tuple(images[0].shape[1:])
    side = min(spacing)
    while math.prod(fewer) > max_voxels:
        side *= 1.05
        fewer = coarser(whole, spacing, side, 8)
    small = [_shrink(image[None].float(), fewer) for image in images]
    looks = None if valid is None else tuple(_shrink(v[None, None].float(), fewer) for v in valid)
    if kind == "mind":
        size = [d * s / f for d, s, f in zip(spacing, whole, fewer)]
        grey = [image.mean(dim=1, keepdim=True) for image in small]
        small = [mind(image, spacing=size) for image in small]
        if intensity and correlation(*grey, looks) >= ALIKE:
            small = [_joined(s, g, intensity) for s, g in zip(small, grey)]
    return ImageTerm(kind, *small, weight, looks)


def with_channels(term: ImageTerm, more: tuple[Tensor, Tensor], weight: float) -> ImageTerm:
    """A term that also compares further channels.

    Args:
        term: of MIND.
        more: moving and fixed channels (C, *any grid over the same box).
        weight: of their mean squared difference beside that of the term's descriptors.
    """
    shape = tuple(term.fixed.shape[2:])
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    resized = [F.interpolate(m[None].to(term.fixed), shape, mode=mode, align_corners=False) for m in more]
    both = [_joined(d, m, weight) for d, m in zip((term.moving, term.fixed), resized)]
    return ImageTerm(term.kind, *both, term.weight, term.valid)


def _joined(descriptors: Tensor, more: Tensor, weight: float) -> Tensor:
    """Channels whose mean squared difference is that of the descriptors plus ``weight`` times that of the others."""
    few, many = more.shape[1], descriptors.shape[1] + more.shape[1]
    return torch.cat([descriptors * math.sqrt(many / (many - few)), more * math.sqrt(weight * many / few)], dim=1)


def correlation(a: Tensor, b: Tensor, valid: tuple[Tensor, Tensor] | None = None) -> float:
    """Correlation of two images over the voxels that count in both; 0 if either is constant."""
    weight = torch.ones_like(a) if valid is None else valid[0] * valid[1]
    a, b = (x - (x * weight).sum() / weight.sum().clamp_min(1e-6) for x in (a, b))
    spread = (weight * a * a).sum() * (weight * b * b).sum()
    return float((weight * a * b).sum() / spread.sqrt().clamp_min(1e-12))


def _shrink(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x if tuple(x.shape[2:]) == tuple(shape) else F.interpolate(x, tuple(shape), mode="area")
