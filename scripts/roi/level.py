# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""One resolution of the dense field: the objective of equation 2 of Huang et al. 2024 and smooth, invertible steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses.smoothness import diffusion
from ..spatial.warp import compose, identity_grid, integrate, resize_ddf
from .image_terms import ImageTerm
from .mask_grids import shrink_masks
from .pair_loss import PairLoss

ROUNDS = 10  # motions that make up a given displacement


class Level:
    """The problem at one resolution: masks, images, and the step from the unknown to a field."""

    def __init__(
        self,
        shape: Sequence[int],
        extent_mm: Tensor,
        masks: tuple[Tensor, Tensor],
        weights: Tensor | None,
        images: ImageTerm | None,
        smoothness: float,
        diffeomorphic: bool = True,
        valid: tuple[Tensor, Tensor] | None = None,
        sigma: float = 0.7,
    ) -> None:
        self.shape, self.smoothness, self.diffeomorphic = tuple(shape), smoothness, diffeomorphic
        self.spacing = extent_mm / extent_mm.new_tensor(self.shape)
        # One unit of the unknown is the same length along every axis: thick slices do not jump.
        self.unit = (self.spacing.min() / self.spacing).view(1, -1, *[1] * len(self.shape))
        self.sigmas = (sigma * self.unit).flatten().tolist()
        if valid is not None:
            valid = tuple(F.interpolate(v[None, None].float(), self.shape, mode="area")[0, 0] for v in valid)
        self.pairs = PairLoss(*(shrink_masks(m, self.shape) for m in masks), weights, valid)
        self.images = images.at(self.shape) if images is not None and images.weight else None

    def displacement(self, unknown: Tensor, carry: Tensor) -> Tensor:
        """Displacement in voxels: that of the coarser levels, ``carry``, composed with the motion of this level."""
        motion = gaussian_smooth(unknown, self.sigmas) * self.unit
        if self.diffeomorphic:
            motion = integrate(motion, squarings(motion))
        return compose(carry, motion)

    def ddf(self, displacement: Tensor, start: Tensor) -> Tensor:
        """DDF in voxels: the displacement, then the linear start map (mm)."""
        n = len(self.shape)
        scale = self.spacing.view(1, n, *[1] * n)
        grid = identity_grid(self.shape, displacement.device, displacement.dtype)
        place = (grid + 0.5 + displacement) * scale
        mapped = torch.einsum("ij,bj...->bi...", start[:, :n], place) + start[:, n].view(1, n, *[1] * n)
        return mapped / scale - 0.5 - grid

    def diffeomorphism(self, displacement: Tensor) -> Tensor:
        """A displacement (voxels of any grid) as a composition of small smooth motions, which cannot fold."""
        wanted = resize_ddf(displacement, self.shape)
        carry = torch.zeros_like(wanted)
        for _ in range(ROUNDS):
            motion = gaussian_smooth(wanted - carry, self.sigmas)
            carry = compose(carry, integrate(motion, squarings(motion)))
        return carry

    def objective(self, displacement: Tensor, start: Tensor, backward: bool = True) -> float:
        """Equation 2 at a displacement (voxels) before the start map; with ``backward`` also its gradients."""
        ddf = self.ddf(displacement, start)
        gradient = torch.zeros_like(ddf) if backward else None
        total = self.pairs(ddf.detach(), gradient)
        if self.images is not None:
            total += self.images(ddf.detach(), gradient)
        smooth = self.smoothness * diffusion(displacement, self.spacing.tolist())
        if backward:
            torch.autograd.backward([ddf, smooth], [gradient, torch.ones_like(smooth)])
        return total + float(smooth.detach())


def gaussian_smooth(x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Separable Gaussian of (B, C, *shape), ``sigmas`` in voxels along each axis, borders repeated."""
    for axis, (size, sigma) in enumerate(zip(x.shape[2:], sigmas), start=2):
        radius = round(3 * sigma)
        if size > 1 and radius:
            weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
            # A matrix product is several times as fast on a CPU as convolutions of many short lines.
            impulses = F.pad(torch.eye(size, device=x.device, dtype=x.dtype)[None], (radius, radius), mode="replicate")
            matrix = impulses[0].unfold(1, 2 * radius + 1, 1) @ (weights / weights.sum())
            x = torch.tensordot(x, matrix, ([axis], [0])).movedim(-1, axis)
    return x


def squarings(velocity: Tensor, longest: float = 0.5) -> int:
    """Squarings after which the first step of scaling and squaring is at most ``longest`` voxels; at least one."""
    return max(1, math.ceil(math.log2(max(float(velocity.detach().abs().max()) / longest, 1.0))))
