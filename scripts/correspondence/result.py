# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The result of a registration, by either method, on the working grid."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..spatial.geometry import Geometry
from .matching import Matches
from .region_masks import RegionMasks
from .regions import Regions


@dataclass(eq=False)
class Registration:
    """The outcome of a registration, on the working grid.

    Attributes:
        moving: regions of the moving image.
        fixed: regions of the fixed image.
        matches: which of these regions correspond.
        moving_masks: K masks (*shape) uint8, coverage 0..255 of the matched regions, best pair first.
        fixed_masks: the same, mask k corresponds to moving mask k.
        ddf: (1, n, *shape) voxels of the working grid, or None if no dense field was requested or found.
        confidence: (1, 1, *shape) in [0, 1], of the field at every voxel; None if it was not requested.
        motion_mm: (K,) mean displacement of the field in each fixed region, mm; None without a field.
        warnings: complete sentences for the user.
        doubts: sentences about whether the result can be trusted, see :mod:`scripts.correspondence.referee`.
        discarded: whether the field of a stage was discarded because the images agree less with it.
        seconds: wall time by stage.
        details: other values for the record.
    """

    moving: Regions
    fixed: Regions
    matches: Matches
    moving_masks: RegionMasks
    fixed_masks: RegionMasks
    ddf: Tensor | None = None
    motion_mm: Tensor | None = None
    confidence: Tensor | None = None
    warnings: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    discarded: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    details: dict = field(default_factory=dict)

    def __getitem__(self, index: int) -> Registration:
        """The result of a batch of one: MONAI Label takes item 0 of what an inferer returns."""
        return (self,)[index]


def working_image(inputs: Tensor) -> tuple[Tensor, Geometry]:
    """The pair (2C, *shape) as a plain tensor, and its grid, of a batch of one (a MetaTensor with the affine)."""
    affine = inputs.affine.reshape(4, 4) if hasattr(inputs, "affine") else torch.eye(4)
    image = inputs.as_tensor() if hasattr(inputs, "as_tensor") else inputs
    return image[0], Geometry(tuple(image.shape[2:]), affine.cpu().numpy().astype(np.float64))


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the wall time of a block to ``seconds[stage]``."""
    began = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
