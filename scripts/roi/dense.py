# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""ROI-to-dense: a displacement field from corresponding regions and the images, equation 2 of Huang et al. 2024.

The reference takes 10,000 Adam steps on the voxels of the full grid. Here a search over displacements and a closed-form
linear map give the start. Then every level from coarse to fine adds a small smooth motion with decaying steps, stops
when the objective no longer changes, and keeps its best state. The objective is the paper's: the sum over pairs of mean
squared error and Dice, plus the gradient of the field (without the linear start). An image term is added unless its
weight is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.errors import InputError
from ..spatial.geometry import coarser
from ..spatial.warp import resize_ddf
from .confidence import confidence
from .image_terms import TERMS, ImageTerm, image_term, with_channels
from .level import Level
from .staged_search import STAGES, Found, Stage, mask_weights, staged_search

TOLERANCE = 2.0  # voxels of the finest level; this disagreement of both directions halves the confidence


@dataclass(frozen=True)
class DenseSettings:
    """How the field is found.

    Attributes:
        smoothness: lambda of equation 2, weight of the mean squared field gradient (mm per mm).
        region_weight: factor of the terms of all region pairs; 1 is the paper's objective.
        named_weight: weight in the objective of each structure that is known by name.
        image_weight: weight of the image term; 0 is the paper's objective, more makes a hybrid.
        image_term: "mind", the mean squared difference of the self-similarity of the images, which does not depend on
            their contrast, or "lncc", 1 - LNCC.
        intensity_weight: weight of the squared difference of the intensities beside that of MIND, in the search and in
            the objective; ignored for images of different contrast, see :func:`scripts.roi.image_terms.image_term`.
        discrete: begins with a search over displacements.
        stages: cell and reach of each search, see :class:`scripts.roi.discrete.SearchSettings`.
        pair_cost: mean weight of a region pair in the costs of the search, beside 1 for the images.
        named_cost: the same for a structure that is known by name.
        embedding_weight: weight of the embeddings of the Segment Anything model in the costs of the search.
        diffeomorphic: the motion of every level is the exponential of a velocity field (scaling and squaring), so that
            their composition cannot fold.
        sigma: of the Gaussian that smooths the motion of every level, in the shortest voxel side of the level.
        levels: resolutions, each half the next.
        steps: most optimiser steps per level.
        fine_share: share of the steps that the finest level takes, which costs most of the time.
        learning_rate: first step size in the shortest voxel side of each level; the last is 0.
        patience: steps without change that end a level.
        max_feature_voxels: the images are described on a grid of at most so many voxels.
        max_voxels: the finest level has at most so many voxels.
        max_work: the finest level has at most so many voxels times pairs, which bounds the time for any K.
    """

    smoothness: float = 14.0
    region_weight: float = 1.0
    named_weight: float = 5.0
    image_weight: float = 0.0
    image_term: str = "mind"
    intensity_weight: float = 0.0
    discrete: bool = False
    stages: tuple[Stage, ...] = STAGES
    pair_cost: float = 0.02
    named_cost: float = 0.2
    embedding_weight: float = 0.0
    diffeomorphic: bool = True
    sigma: float = 2.5
    levels: int = 3
    steps: int = 30
    fine_share: float = 1.0
    learning_rate: float = 0.2
    patience: int = 12
    max_feature_voxels: int = 700_000
    max_voxels: int = 400_000
    max_work: int = 30_000_000

    def __post_init__(self) -> None:
        for name in ("smoothness", "region_weight", "image_weight", "intensity_weight", "embedding_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.image_term not in TERMS:
            raise InputError(f"image_term must be {' or '.join(TERMS)}, got {self.image_term!r}.")
        if self.embedding_weight and not self.discrete:
            raise InputError("Embeddings are compared by the search only: use --discrete True or --embedding_weight 0.")
        if self.levels < 1 or self.steps < 1:
            raise InputError(f"levels and steps must be at least 1, got {self.levels} and {self.steps}.")
        if not 0 < self.fine_share <= 1:
            raise InputError(f"fine_share must be above 0 and at most 1, got {self.fine_share}.")

    @property
    def compares_images(self) -> bool:
        """Whether the images lead the field, or only the regions."""
        return self.discrete or self.image_weight > 0

    @property
    def level_steps(self) -> list[int]:
        """Most steps of each level, coarse to fine."""
        return [self.steps] * (self.levels - 1) + [math.ceil(self.steps * self.fine_share)]


@dataclass(frozen=True, eq=False)
class DenseResult:
    """A field and how it was found.

    Attributes:
        ddf: (1, n, *shape) voxels of the working grid.
        history: objective of every step, one list per level, coarse to fine.
        start_used: whether the centroid fit was better than the identity.
        confidence: (1, 1, *shape) in [0, 1], see :func:`scripts.roi.confidence.confidence`; None unless
            asked for.
    """

    ddf: Tensor
    history: list[list[float]]
    start_used: bool
    confidence: Tensor | None = None


def roi_to_dense(
    moving_masks: Tensor,
    fixed_masks: Tensor,
    spacing: Sequence[float],
    settings: DenseSettings = DenseSettings(),
    *,
    weights: Tensor | None = None,
    named: tuple[Tensor, Tensor] | None = None,
    start: Tensor | None = None,
    images: tuple[Tensor, Tensor] | None = None,
    valid: tuple[Tensor, Tensor] | None = None,
    embeddings: tuple[Tensor, Tensor] | None = None,
    measured: bool = False,
    progress: Callable[[int, float], None] | None = None,
) -> DenseResult:
    """Finds the field that aligns corresponding regions.

    Args:
        moving_masks: (K, *shape) uint8 coverage 0..255 on the working grid; K may be 0 if the images are compared.
        fixed_masks: same shape; mask k corresponds to moving mask k.
        spacing: mm of the working grid.
        settings: see :class:`DenseSettings`.
        weights: (K,) of the pairs in the objective; None weights them equally.
        named: moving and fixed masks (S, *shape) uint8 of structures known by name; they join the pairs.
        start: (n, n + 1) linear map, fixed to moving, mm from the grid's corner; used if it is better than the
            identity.
        images: moving and fixed image (C, *shape) in [0, 1], for the search and the image term.
        valid: moving and fixed weight (*shape) of the voxels in [0, 1]; images are compared where both are positive.
        embeddings: moving and fixed channels (C, *any grid over the same box) that the search compares, too.
        measured: also measures the confidence of the field, if there is a search.
        progress: called with the number of steps of the finished work and the objective after every step.

    Returns:
        The field of the best state of the finest level, and the history.

    Raises:
        ValueError: masks of different shapes, or nothing to align.
    """
    if moving_masks.shape != fixed_masks.shape:
        raise ValueError(f"Masks must match, got {tuple(moving_masks.shape)} and {tuple(fixed_masks.shape)}.")
    compared = images is not None and settings.compares_images
    if not len(moving_masks) and not compared:
        raise ValueError("There is neither a pair of regions nor an image term to align.")
    shape = tuple(moving_masks.shape[1:])
    n, device = len(shape), moving_masks.device
    extent = torch.tensor([s * d for s, d in zip(shape, spacing)], dtype=torch.float32, device=device)
    term = None
    described = (valid, settings.max_feature_voxels, settings.intensity_weight)
    if compared and settings.image_weight:
        term = image_term(images, spacing, settings.image_term, settings.image_weight, *described)
    sure = torch.ones(len(moving_masks)) if weights is None else weights
    shares, costs = settings.region_weight * sure, mask_weights(fixed_masks, settings.pair_cost) * sure
    if named is not None:
        moving_masks, fixed_masks = (torch.cat(both) for both in zip((moving_masks, fixed_masks), named))
        shares = torch.cat([shares, torch.full([len(named[1])], settings.named_weight)])
        costs = torch.cat([costs, mask_weights(named[1], settings.named_cost)])
    masks = moving_masks, fixed_masks
    used = shares > 0
    counted = masks if used.all() else tuple(mask[used.to(device)] for mask in masks)
    levels = [
        Level(
            s, extent, counted, shares[used], term, settings.smoothness, settings.diffeomorphic, valid, settings.sigma
        )
        for s in level_shapes(shape, spacing, settings, int(used.sum()))
    ]
    carry = torch.zeros(1, n, *levels[0].shape, device=device)
    chosen, start_used = torch.eye(n, n + 1, device=device), False
    if start is not None and len(moving_masks):
        start = start.to(chosen)
        with torch.no_grad():
            losses = [levels[0].objective(carry, s, backward=False) for s in (chosen, start)]
        if losses[1] < losses[0]:
            chosen, start_used = start, True
    found = None
    if settings.discrete and compared:
        # The search always compares descriptors, even if the refinement compares intensities.
        seen = term if term is not None and term.kind == "mind" else None
        seen = image_term(images, spacing, "mind", 1.0, *described) if seen is None else seen
        if embeddings is not None and settings.embedding_weight:
            seen = with_channels(seen, embeddings, settings.embedding_weight)
        found = _search(seen, extent, masks, costs, chosen, settings, measured)
        with torch.no_grad():
            begun = levels[0].diffeomorphism(found.forward)
            losses = [levels[0].objective(c, chosen, backward=False) for c in (carry, begun)]
        carry = begun if losses[1] < losses[0] else carry
    history: list[list[float]] = []
    for level, steps in zip(levels, settings.level_steps):
        carry, losses = _descend(level, resize_ddf(carry, level.shape), chosen, settings, steps, progress)
        history.append(losses)
    ddf = resize_ddf(levels[-1].ddf(carry, chosen), shape)
    sure = None
    if found is not None and measured:
        size = levels[-1].spacing.tolist()
        sure = confidence(carry, found, size, TOLERANCE * min(size))
        sure = F.interpolate(sure, shape, mode="bilinear" if n == 2 else "trilinear", align_corners=False)
    return DenseResult(ddf, history, start_used, sure)


@torch.no_grad()
def _search(
    term: ImageTerm,
    extent: Tensor,
    masks: tuple[Tensor, Tensor],
    weights: Tensor,
    start: Tensor,
    settings: DenseSettings,
    measured: bool,
) -> Found:
    """The search on the grid of the features, from the linear start."""
    none = masks[0][:0], masks[1][:0]
    grid = Level(term.fixed.shape[2:], extent, none, None, None, settings.smoothness)
    linear = grid.ddf(torch.zeros_like(grid.spacing).view(1, -1, *[1] * len(grid.shape)), start)
    pairs = masks if weights.any() else None
    return staged_search(term, grid.spacing.tolist(), settings.stages, linear, pairs, weights, measured)


@torch.enable_grad()  # MONAI's evaluators switch gradients off
def _descend(
    level: Level, carry: Tensor, start: Tensor, settings: DenseSettings, steps: int, progress
) -> tuple[Tensor, list[float]]:
    """Adam with fading steps until the plateau; the best displacement (voxels) and the objective of every step."""
    unknown = torch.zeros_like(carry, requires_grad=True)
    # The averages are short, because the steps are few.
    optimiser = torch.optim.Adam([unknown], lr=settings.learning_rate, betas=(0.8, 0.95))
    fade = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    best, best_loss, losses = carry, float("inf"), []
    for step in range(steps):
        optimiser.zero_grad(set_to_none=True)
        displacement = level.displacement(unknown, carry)
        loss = level.objective(displacement, start)
        losses.append(loss)
        if progress is not None:
            progress(1, loss)
        if loss < best_loss:
            best, best_loss = displacement.detach(), loss
        # Adam's first steps may go uphill, so a level ends when nothing changes, not when nothing improves.
        recent = losses[-settings.patience :]
        if len(recent) == settings.patience and max(recent) - min(recent) <= 1e-3 * abs(loss) + 1e-6:
            if progress is not None:
                progress(steps - step - 1, loss)
            break
        optimiser.step()
        fade.step()
    return best, losses


def level_shapes(
    shape: Sequence[int], spacing: Sequence[float], settings: DenseSettings, pairs: int = 1
) -> list[tuple[int, ...]]:
    """Grids from coarse to fine; coarsening makes voxels more cubic, so thick slices are halved last."""
    most = max(8 ** len(shape), min(settings.max_voxels, settings.max_work // max(pairs, 1)))
    finest = min(spacing)
    while math.prod(coarser(shape, spacing, finest, 8)) > most:
        finest *= 1.1
    return [coarser(shape, spacing, finest * 2**k, 8) for k in reversed(range(settings.levels))]
