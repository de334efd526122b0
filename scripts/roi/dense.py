# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""ROI-to-dense: a displacement field from corresponding regions, equation 2 of Huang et al. 2024.

The reference takes 10,000 Adam steps on the voxels of the full grid. Here the unknown is a smooth field on half the
resolution, refined from coarse to fine from a closed-form start, and stopped where it no longer improves; the best
state is returned. The objective is the paper's: the sum over pairs of mean squared error and Dice, plus the gradient
of the field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scripts.errors import InputError
from scripts.losses.overlap import roi_loss
from scripts.losses.similarity import lncc
from scripts.losses.smoothness import diffusion
from scripts.spatial.warp import identity_grid, integrate, resize_ddf, sample


@dataclass(frozen=True)
class DenseSettings:
    """How the field is found.

    Attributes:
        smoothness: lambda of equation 2, weight of the mean squared field gradient (mm per mm).
        image_weight: weight of 1 - LNCC of the images; 0 is the paper's objective, more makes a hybrid.
        diffeomorphic: the field is the exponential of a velocity field (scaling and squaring) and cannot fold.
        levels: resolutions, each half the next.
        steps: most optimiser steps a level.
        learning_rate: step size in voxels of the parameter grid.
        patience: steps without improvement that end a level.
        lncc_kernel: window of LNCC in voxels of each level.
        max_voxels: the finest level has at most so many voxels.
        max_work: the finest level has at most so many voxels times pairs, which bounds the time whatever K is.
        chunk_voxels: masks are warped in groups of at most so many voxels, which bounds the memory whatever K is.
    """

    smoothness: float = 12.0
    image_weight: float = 0.0
    diffeomorphic: bool = True
    levels: int = 3
    steps: int = 60
    learning_rate: float = 0.12
    patience: int = 12
    lncc_kernel: int = 9
    max_voxels: int = 600_000
    max_work: int = 10_000_000
    chunk_voxels: int = 4_000_000

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
    """The problem at one resolution: masks, images, and the step from parameters to a field."""

    def __init__(self, shape, extent_mm: Tensor, masks: tuple[Tensor, Tensor], images, settings: DenseSettings) -> None:
        self.shape, self.settings = tuple(shape), settings
        self.extent = extent_mm
        self.spacing = extent_mm / extent_mm.new_tensor(self.shape)
        # Whole numbers of 1/255 take a quarter of the memory; K masks are only floats group by group.
        self.moving, self.fixed = (_shrink_masks(m, self.shape) for m in masks)
        self.images = None
        if settings.image_weight and images is not None:
            self.images = tuple(_shrink(i[None], self.shape) for i in images)
        self.group = max(1, settings.chunk_voxels // max(1, self.moving[0].numel() if len(self.moving) else 1))
        self.parameter_shape = tuple(max(2, (s + 1) // 2) if s > 3 else s for s in self.shape)
        self.parameter_spacing = extent_mm / extent_mm.new_tensor(self.parameter_shape)

    def deformation(self, parameters: Tensor) -> Tensor:
        """Displacement (1, n, *parameter_shape) in mm of parameters of the same shape in mm."""
        n = parameters.shape[1]
        scale = self.parameter_spacing.view(1, n, *[1] * n)
        smooth = gaussian_smooth(parameters) / scale
        return (integrate(smooth) if self.settings.diffeomorphic else smooth) * scale

    def ddf(self, displacement: Tensor, start: Tensor) -> Tensor:
        """DDF (1, n, *shape) in voxels of this level: the displacement, then the linear start map, both in mm."""
        n = displacement.shape[1]
        scale = self.spacing.view(1, n, *[1] * n)
        parameter_scale = self.parameter_spacing.view(1, n, *[1] * n)
        fine = resize_ddf(displacement / parameter_scale, self.shape) * scale
        grid = identity_grid(self.shape, fine.device, fine.dtype)
        place = (grid + 0.5) * scale + fine
        mapped = torch.einsum("ij,bj...->bi...", start[:, :n], place) + start[:, n].view(1, n, *[1] * n)
        return mapped / scale - 0.5 - grid

    def roi_objective(self, ddf: Tensor, backward: bool) -> float:
        """Sum over pairs of MSE + Dice; adds its gradient to ``ddf.grad`` group by group."""
        total = 0.0
        places = identity_grid(self.shape, ddf.device, ddf.dtype)
        for first in range(0, len(self.moving), self.group):
            part = slice(first, first + self.group)
            warped = sample(self.moving[part].to(ddf)[None] / 255, places + ddf, padding="zeros")[0]
            loss = roi_loss(warped, self.fixed[part].to(ddf) / 255).sum()
            if backward:
                loss.backward()
            total += float(loss.detach())
        return total

    def image_objective(self, ddf: Tensor, backward: bool) -> float:
        """``image_weight * (1 - LNCC)``; adds its gradient to ``ddf.grad``."""
        if self.images is None:
            return 0.0
        moving, fixed = self.images
        warped = sample(moving, identity_grid(self.shape, ddf.device, ddf.dtype) + ddf)
        loss = self.settings.image_weight * (1 - lncc(warped, fixed, self.settings.lncc_kernel))
        if backward:
            loss.backward()
        return float(loss.detach())

    def objective(self, displacement: Tensor, start: Tensor, backward: bool = True) -> tuple[float, Tensor | None]:
        """Equation 2 at a displacement (mm), and its gradient with respect to it."""
        ddf = self.ddf(displacement, start)
        leaf = ddf.detach().requires_grad_(backward)
        total = self.roi_objective(leaf, backward) + self.image_objective(leaf, backward)
        smooth = self.settings.smoothness * diffusion(
            displacement / self.parameter_spacing.view(1, -1, *[1] * (displacement.ndim - 2)),
            self.parameter_spacing.tolist(),
        )
        if backward:
            torch.autograd.backward([ddf, smooth], [leaf.grad, torch.ones_like(smooth)])
        return total + float(smooth.detach()), ddf


def roi_to_dense(
    moving_masks: Tensor,
    fixed_masks: Tensor,
    spacing: Sequence[float],
    settings: DenseSettings = DenseSettings(),
    *,
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
        _Level(s, extent, (moving_masks, fixed_masks), images, settings)
        for s in level_shapes(shape, spacing, settings, len(moving_masks))
    ]
    identity = torch.eye(n, n + 1, device=device)
    chosen, start_used = identity, False
    if start is not None and len(moving_masks):
        still = torch.zeros(1, n, *levels[0].parameter_shape, device=device)
        with torch.no_grad():
            losses = [levels[0].objective(still, s.to(identity), backward=False)[0] for s in (identity, start)]
        if losses[1] < losses[0]:
            chosen, start_used = start.to(identity), True
    parameters = torch.zeros(1, n, *levels[0].parameter_shape, device=device)
    history: list[list[float]] = []
    for level in levels:
        if tuple(parameters.shape[2:]) != level.parameter_shape:
            mode = "bilinear" if n == 2 else "trilinear"
            parameters = F.interpolate(parameters, level.parameter_shape, mode=mode, align_corners=False)
        parameters, losses = _descend(level, parameters, chosen, settings, progress)
        history.append(losses)
    with torch.no_grad():
        ddf = levels[-1].ddf(levels[-1].deformation(parameters), chosen)
        return DenseResult(resize_ddf(ddf, shape), history, start_used)


@torch.enable_grad()  # MONAI's evaluators switch gradients off
def _descend(
    level: _Level, parameters: Tensor, start: Tensor, settings: DenseSettings, progress
) -> tuple[Tensor, list[float]]:
    """Adam until the plateau; returns the best parameters and the objective of every step."""
    unit = level.parameter_spacing.view(1, -1, *[1] * (parameters.ndim - 2))
    unknown = (parameters / unit).clone().requires_grad_()
    optimiser = torch.optim.Adam([unknown], lr=settings.learning_rate)
    best, best_loss, reached, since, losses = parameters, float("inf"), float("inf"), 0, []
    for step in range(settings.steps):
        optimiser.zero_grad(set_to_none=True)
        loss, _ = level.objective(level.deformation(unknown * unit), start)
        losses.append(loss)
        if progress is not None:
            progress(1, loss)
        if step:  # Adam's first steps may lead uphill: the plateau is one of the descent, not of the start
            since = 0 if loss < reached - 1e-3 * abs(loss) else since + 1
            reached = min(reached, loss)
        if loss < best_loss:
            best, best_loss = (unknown * unit).detach().clone(), loss
        if since >= settings.patience:
            if progress is not None:
                progress(settings.steps - step - 1, loss)
            break
        optimiser.step()
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


def gaussian_smooth(x: Tensor, sigma: float = 1.0) -> Tensor:
    """Separable Gaussian of ``sigma`` voxels along each axis of (B, C, *shape), borders repeated."""
    radius = max(1, round(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
    weights = weights / weights.sum()
    for axis in range(2, x.ndim):
        if x.shape[axis] == 1:
            continue
        line = x.movedim(axis, -1)
        flat = F.pad(line.reshape(-1, 1, line.shape[-1]), (radius, radius), mode="replicate")
        x = F.conv1d(flat, weights[None, None]).reshape(line.shape).movedim(-1, axis)
    return x


def _shrink(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.float() if tuple(x.shape[2:]) == shape else F.interpolate(x.float(), shape, mode="area")


def _shrink_masks(masks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Coverage (K, *shape) uint8 of masks at a level, mask by mask so that no float copy of all of them exists."""
    if tuple(masks.shape[1:]) == shape or not len(masks):
        return masks if len(masks) else masks.new_zeros(0, *shape)
    return torch.cat([_shrink(m[None, None], shape)[0].round().to(torch.uint8) for m in masks])
