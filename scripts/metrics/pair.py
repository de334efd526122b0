# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Metrics of a registered pair in memory, the initial value beside the final one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data.pair import Pair
from ..spatial.geometry import resample_map
from ..spatial.landmarks import fixed_to_moving
from .assembly import common_values, field_metrics, label_metrics, landmark_metrics, plain


def pair_metrics(pair: Pair, ddf: Tensor | None) -> dict:
    """Overlap, surface distance, landmark error and regularity, as far as labels and landmarks are given.

    Args:
        pair: the images with their labels and landmarks.
        ddf: (1, n, *fixed.shape) fixed voxels on the native fixed grid, or None.

    Returns:
        a dict ready for JSON. Stages are "initial" (as scanned), "aligned" (after an initial alignment) and "final"
        (with the field); distances are in mm; unknown values are None.
    """
    stages: dict[str, tuple[NDArray | None, Tensor | None]] = {"initial": (None, None)}
    if not np.allclose(pair.transform, np.eye(4)):
        stages["aligned"] = (pair.transform, None)
    if ddf is not None:
        stages["final"] = (pair.transform, ddf)
    result: dict = {}
    if pair.moving_label is not None and pair.fixed_label is not None:
        moving, fixed = pair.moving_label, pair.fixed_label
        moved = (
            (stage, resample_map(moving.array[0], moving.geometry, fixed.geometry, *how))
            for stage, how in stages.items()
        )
        values = common_values(moving.array, fixed.array)
        result |= label_metrics(moved, fixed.array[0], values, pair.fixed.geometry.spacing)
    if pair.moving_landmarks is not None and pair.fixed_landmarks is not None:
        moved = (
            (stage, fixed_to_moving(pair.fixed_landmarks, field, pair.fixed.geometry, transform))
            for stage, (transform, field) in stages.items()
        )
        result |= landmark_metrics(moved, pair.moving_landmarks)
    if ddf is not None:
        result |= field_metrics(ddf, pair.fixed.geometry.spacing)
    return plain(result)
