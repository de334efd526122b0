# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Exact regions moved by a registration, and their overlap in both images afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..data.segmentations import Segmentation
from ..metrics.assembly import mean_known
from ..metrics.overlap import dice
from ..spatial.chain import Step
from ..spatial.geometry import Geometry
from ..spatial.resampling import resample_image
from .region_pairs import RegionPairs


def move_regions(regions: Segmentation, grid: Geometry, steps: Sequence[Step]) -> tuple[Segmentation, float]:
    """Resamples the regions of the moving image to another grid: nearest voxel, overlaps kept.

    ``steps`` lead from the world of the grid to that of the moving image. Also returns the share of the grid's voxels
    inside the moving image.
    """
    layers, inside = resample_image(regions.layers, regions.geometry, grid, steps, interpolation="nearest")
    return Segmentation(layers, grid, regions.segments), inside


def region_dice(pairs: RegionPairs, stages: Mapping[str, Sequence[Step]]) -> dict[str, dict]:
    """Dice of each region pair by stage and number, and their mean, under "region_dice"."""
    result = {}
    for stage, steps in stages.items():
        moved, _ = move_regions(pairs.moving, pairs.fixed.geometry, steps)
        both = (map(torch.from_numpy, (moved.mask(k), pairs.fixed.mask(k))) for k in range(len(pairs)))
        scores = {k: dice(*masks, [1])[1] for k, masks in enumerate(both, start=1)}
        result[stage] = scores | {"mean": mean_known(scores.values())}
    return {"region_dice": result}
