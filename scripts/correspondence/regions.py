# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Regions of one image, found by any method."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .slicing import SlicePlan


@dataclass(frozen=True, eq=False)
class Regions:
    """K regions of one image.

    Attributes:
        prototypes: (K, C) mean feature of each region.
        areas: (K,) voxels or pixels.
        centroids: (K, n) voxels of the working grid.
        scores: (K,) predicted quality in [0, 1], or None if the method predicts none.
        plan: the slices in which the regions are shown.
    """

    prototypes: Tensor
    areas: Tensor
    centroids: Tensor
    scores: Tensor | None
    plan: SlicePlan

    def __len__(self) -> int:
        return len(self.areas)
