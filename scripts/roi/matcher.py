# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Which regions of two images correspond: prototypes, position, and agreement with the other pairs."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..common.errors import InputError
from ..correspondence.matching import Matches, check_settings, cosine_similarity, match, position_prior
from ..spatial.geometry import Geometry
from .consistency import certainty, cycle_consistent
from .regions import SliceRegions

ALIGNED_SIGMA = 0.015  # position prior after an initial alignment, share of the diagonal


class Matcher:
    """Pairs the regions of two images.

    Args:
        epsilon: least similarity of a pair, in [0, 1].
        strategy: "greedy" (the paper), "hungarian" or "mutual", see :func:`scripts.correspondence.matching.match`.
        max_pairs: keeps only this many of the best pairs; None keeps all.
        position_sigma_mm: standard deviation of the prior that regions keep their place; 0 for none, as in the paper.
            None takes a share of the image's diagonal that suits images that were aligned before.
        strictness: how quickly pairs that disagree with their neighbours lose weight; 0 trusts all pairs, as the paper
            does. See :func:`scripts.roi.consistency.certainty`.
        least_certainty: pairs below it are dropped.
        cycle: keeps only pairs of regions that are each other's best choice, or nearly so.

    Raises:
        InputError: a setting out of range.
    """

    def __init__(
        self,
        epsilon: float = 0.8,
        strategy: str = "greedy",
        max_pairs: int | None = None,
        position_sigma_mm: float | None = 0.0,
        strictness: float = 0.0,
        least_certainty: float = 0.1,
        cycle: bool = False,
    ) -> None:
        check_settings(epsilon, strategy, max_pairs)
        for name, value in (("position_sigma_mm", position_sigma_mm or 0.0), ("strictness", strictness)):
            if value < 0:
                raise InputError(f"{name} must not be negative, got {value}.")
        if not 0 <= least_certainty < 1:
            raise InputError(f"least_certainty must lie in [0, 1), got {least_certainty}.")
        self.epsilon, self.strategy, self.max_pairs = epsilon, strategy, max_pairs
        self.position_sigma_mm, self.strictness = position_sigma_mm, strictness
        self.least_certainty, self.cycle = least_certainty, cycle

    def __call__(
        self, moving: SliceRegions, fixed: SliceRegions, working: Geometry, within_slices: bool = False
    ) -> Matches:
        """Finds the pairs.

        Args:
            moving: regions of the moving image.
            fixed: regions of the fixed image.
            working: the common grid of both.
            within_slices: pairs only regions of the same slice.
        """
        spacing = torch.tensor(working.spacing)
        sigma, prior = self.position_sigma_mm, None
        if sigma is None:
            sigma = ALIGNED_SIGMA * float((torch.tensor(working.shape) * spacing).norm())
        if sigma:
            prior = position_prior(moving.centroids * spacing, fixed.centroids * spacing, sigma)
        axis = moving.plan.axis
        if axis is not None and within_slices:
            same = (moving.centroids[:, None, axis] - fixed.centroids[None, :, axis]).abs() < 0.5
            prior = same.float() if prior is None else prior * same
        if moving.looks.any() or fixed.looks.any():
            same = (moving.looks[:, None] == fixed.looks[None]).float()
            prior = same if prior is None else prior * same
        similarity = cosine_similarity(moving.prototypes, fixed.prototypes)
        found = match(similarity, self.epsilon, self.strategy, self.max_pairs, prior)
        doubted = torch.zeros(len(found), dtype=torch.bool)
        if self.cycle:
            score = similarity if prior is None else similarity * prior
            doubted = ~cycle_consistent(score, found.moving, found.fixed)
        sure = None
        if self.strictness:
            centroids = moving.centroids[found.moving] * spacing, fixed.centroids[found.fixed] * spacing
            pixel = torch.tensor([s for a, s in enumerate(working.spacing) if a != axis])
            radius = (fixed.areas[found.fixed] / torch.pi).sqrt() * pixel.mean()
            sure = certainty(*centroids, found.score, radius, self.strictness)
            doubted = doubted | (sure < self.least_certainty)
        parts = {name: getattr(found, name)[~doubted] for name in ("moving", "fixed", "similarity", "score")}
        sure = None if sure is None else sure[~doubted]
        return replace(found, **parts, certainty=sure, doubted=int(doubted.sum()))
