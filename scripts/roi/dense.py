# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""ROI-to-dense: a displacement field from corresponding regions, equation 2 of Huang et al. 2024.

The reference takes 10,000 Adam steps on the voxels of the full grid. Here every level from coarse to fine adds a small
smooth motion to a closed-form start, with steps that fade out, stops where nothing changes any more, and keeps its best
state. The objective is the paper's: the sum over pairs of mean squared error and Dice, plus the gradient of the field
(of what it adds to the linear start).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.errors import InputError
from ..losses.similarity import lncc
from ..losses.smoothness import diffusion
from ..spatial.warp import compose, identity_grid, integrate, resize_ddf, warp
from .pair_loss import PairLoss

SIGMA = 0.7  # of the smoothing of every motion, in the shortest voxel side of its level


@dataclass(frozen=True)
class DenseSettings:
    """How the field is found.

    Attributes:
        smoothness: lambda of equation 2, weight of the mean squared field gradient (mm per mm).
        image_weight: weight of 1 - LNCC of the images; 0 is the paper's objective, more makes a hybrid.
        diffeomorphic: the motion of every level is the exponential of a velocity field (scaling and squaring), so that
            their composition cannot fold.
        levels: resolutions, each half the next.
        steps: most optimiser steps a level.
        learning_rate: first step size in the shortest voxel side of each level; the last is 0.
        patience: steps without change that end a level.
        lncc_kernel: window of LNCC in voxels of each level.
        max_voxels: the finest level has at most so many voxels.
        max_work: the finest level has at most so many voxels times pairs, which bounds the time whatever K is.
    """

    smoothness: float = 12.0
    image_weight: float = 0.0
    diffeomorphic: bool = True
    levels: int = 3
    steps: int = 60
    learning_rate: float = 0.2
    patience: int = 12
    lncc_kernel: int = 9
    max_voxels: int = 600_000
    max_work: int = 10_000_000

    def __post_init__(self) -> None:
        if self.smoothness < 0 or self.image_weight < 0:
            raise InputError(
                f"smoothness and image_weight must not be negative, got {self.smoothness} and {self.image_weight}."
            )
        if self.levels < 1 or self.steps < 1:
            raise InputError(f"levels and steps must be at least 1, got {self.levels} and {self.steps}.")


@dataclass(frozen=True, eq=False)
class DenseResult:
    """A field and how it came about.

    Attributes:
        ddf: (1, n, *shape) voxels of the working grid.
        history: objective of every step, one list a level, coarse to fine.
        start_used: whether the centroid fit beat the identity.
    """

    ddf: Tensor
    history: list[list[float]]
    start_used: bool


class _Level:
    """The problem at one resolution: masks, images, and the step from the unknown to a field."""

    def __init__(
        self, shape, extent_mm: Tensor, masks: tuple[Tensor, Tensor], weights, images, settings: DenseSettings
    ) -> None:
        self.shape, self.settings = tuple(shape), settings
        self.spacing = extent_mm / extent_mm.new_tensor(self.shape)
        # One unit of the unknown is the same length along every axis: thick slices do not jump.
        self.unit = (self.spacing.min() / self.spacing).view(1, -1, *[1] * len(self.shape))
        self.sigmas = (SIGMA * self.unit).flatten().tolist()
        self.pairs = PairLoss(*(_shrink_masks(m, self.shape) for m in masks), weights)
        self.images = None
        if settings.image_weight and images is not None:
            self.images = tuple(_shrink(i[None], self.shape) for i in images)

    def displacement(self, unknown: Tensor, carry: Tensor) -> Tensor:
        """Displacement in voxels: what coarser levels found, ``carry``, read through the small motion of this level."""
        motion = gaussian_smooth(unknown, self.sigmas) * self.unit
        if self.settings.diffeomorphic:
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

    def image_objective(self, ddf: Tensor, gradient: Tensor | None) -> float:
        """``image_weight * (1 - LNCC)``; its derivative is added to ``gradient``."""
        if self.images is None:
            return 0.0
        moving, fixed = self.images
        leaf = ddf.detach().requires_grad_(gradient is not None)
        loss = self.settings.image_weight * (1 - lncc(warp(moving, leaf), fixed, self.settings.lncc_kernel))
        if gradient is not None:
            gradient += torch.autograd.grad(loss, leaf)[0]
        return float(loss.detach())

    def objective(self, displacement: Tensor, start: Tensor, backward: bool = True) -> float:
        """Equation 2 at a displacement (voxels) before the start map; adds its gradient to what led there."""
        ddf = self.ddf(displacement, start)
        gradient = torch.zeros_like(ddf) if backward else None
        total = self.pairs(ddf.detach(), gradient) + self.image_objective(ddf.detach(), gradient)
        smooth = self.settings.smoothness * diffusion(displacement, self.spacing.tolist())
        if backward:
            torch.autograd.backward([ddf, smooth], [gradient, torch.ones_like(smooth)])
        return total + float(smooth.detach())


def roi_to_dense(
    moving_masks: Tensor,
    fixed_masks: Tensor,
    spacing: Sequence[float],
    settings: DenseSettings = DenseSettings(),
    *,
    weights: Tensor | None = None,
    start: Tensor | None = None,
    images: tuple[Tensor, Tensor] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> DenseResult:
    """Finds the field that aligns corresponding regions.

    Args:
        moving_masks: (K, *shape) uint8 coverage 0..255 on the working grid; K may be 0 if ``image_weight`` is positive.
        fixed_masks: same shape; mask k corresponds to moving mask k.
        spacing: mm of the working grid.
        settings: see :class:`DenseSettings`.
        weights: (K,) of the pairs in the objective; None counts all alike.
        start: (n, n + 1) linear map, fixed to moving, mm from the grid's corner; used if it beats the identity.
        images: moving and fixed image (C, *shape) in [0, 1], for the image term.
        progress: called with the number of steps of the finished work and the objective after every step.

    Returns:
        The field of the best state of the finest level, and the history.

    Raises:
        ValueError: masks of different shapes, or nothing to align.
    """
    if moving_masks.shape != fixed_masks.shape:
        raise ValueError(f"Masks must match, got {tuple(moving_masks.shape)} and {tuple(fixed_masks.shape)}.")
    if not len(moving_masks) and not (settings.image_weight and images is not None):
        raise ValueError("There is neither a pair of regions nor an image term to align.")
    shape = tuple(moving_masks.shape[1:])
    n, device = len(shape), moving_masks.device
    extent = torch.tensor([s * d for s, d in zip(shape, spacing)], dtype=torch.float32, device=device)
    levels = [
        _Level(s, extent, (moving_masks, fixed_masks), weights, images, settings)
        for s in level_shapes(shape, spacing, settings, len(moving_masks))
    ]
    carry = torch.zeros(1, n, *levels[0].shape, device=device)
    chosen, start_used = torch.eye(n, n + 1, device=device), False
    if start is not None and len(moving_masks):
        start = start.to(chosen)
        with torch.no_grad():
            losses = [levels[0].objective(carry, s, backward=False) for s in (chosen, start)]
        if losses[1] < losses[0]:
            chosen, start_used = start, True
    history: list[list[float]] = []
    for level in levels:
        carry, losses = _descend(level, resize_ddf(carry, level.shape), chosen, settings, progress)
        history.append(losses)
    return DenseResult(resize_ddf(levels[-1].ddf(carry, chosen), shape), history, start_used)


@torch.enable_grad()  # MONAI's evaluators switch gradients off
def _descend(
    level: _Level, carry: Tensor, start: Tensor, settings: DenseSettings, progress
) -> tuple[Tensor, list[float]]:
    """Adam with fading steps until the plateau; the best displacement (voxels) and the objective of every step."""
    unknown = torch.zeros_like(carry, requires_grad=True)
    # Few steps, so the averages are short.
    optimiser = torch.optim.Adam([unknown], lr=settings.learning_rate, betas=(0.8, 0.95))
    fade = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    best, best_loss, losses = carry, float("inf"), []
    for step in range(settings.steps):
        optimiser.zero_grad(set_to_none=True)
        displacement = level.displacement(unknown, carry)
        loss = level.objective(displacement, start)
        losses.append(loss)
        if progress is not None:
            progress(1, loss)
        if loss < best_loss:
            best, best_loss = displacement.detach(), loss
        # Adam's first steps may lead uphill, so a plateau is where nothing changes rather than where nothing improves.
        recent = losses[-settings.patience :]
        if len(recent) == settings.patience and max(recent) - min(recent) <= 1e-3 * abs(loss):
            if progress is not None:
                progress(settings.steps - step - 1, loss)
            break
        optimiser.step()
        fade.step()
    return best, losses


def level_shapes(
    shape: Sequence[int], spacing: Sequence[float], settings: DenseSettings, pairs: int = 1
) -> list[tuple[int, ...]]:
    """Grids from coarse to fine; coarsening makes voxels more nearly cubic, so thick slices are halved last."""
    most = max(8 ** len(shape), min(settings.max_voxels, settings.max_work // max(pairs, 1)))
    finest = min(spacing)
    while math.prod(_coarser(shape, spacing, finest)) > most:
        finest *= 1.1
    return [_coarser(shape, spacing, finest * 2**k) for k in reversed(range(settings.levels))]


def _coarser(shape: Sequence[int], spacing: Sequence[float], target: float) -> tuple[int, ...]:
    return tuple(s if d >= target else max(min(s, 8), round(s * d / target)) for s, d in zip(shape, spacing))


def gaussian_smooth(x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Separable Gaussian of (B, C, *shape), ``sigmas`` in voxels along each axis, borders repeated."""
    for axis, (size, sigma) in enumerate(zip(x.shape[2:], sigmas), start=2):
        radius = round(3 * sigma)
        if size > 1 and radius:
            weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
            # As a matrix: several times faster on a CPU than convolutions of many short lines.
            impulses = F.pad(torch.eye(size, device=x.device, dtype=x.dtype)[None], (radius, radius), mode="replicate")
            matrix = impulses[0].unfold(1, 2 * radius + 1, 1) @ (weights / weights.sum())
            x = torch.tensordot(x, matrix, ([axis], [0])).movedim(-1, axis)
    return x


def squarings(velocity: Tensor, longest: float = 0.5) -> int:
    """Squarings after which the first step of scaling and squaring is at most ``longest`` voxels; at least one."""
    return max(1, math.ceil(math.log2(max(float(velocity.detach().abs().max()) / longest, 1.0))))


def _shrink(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.float() if tuple(x.shape[2:]) == shape else F.interpolate(x.float(), shape, mode="area")


def _shrink_masks(masks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Coverage (K, *shape) uint8 of masks at a level, mask by mask so that no float copy of all of them exists."""
    if tuple(masks.shape[1:]) == shape or not len(masks):
        return masks if len(masks) else masks.new_zeros(0, *shape)
    return torch.cat([_shrink(m[None, None], shape)[0].round().to(torch.uint8) for m in masks])
