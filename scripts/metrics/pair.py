# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Metrics of a registered pair in memory, initial values beside final ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.pair import Pair
from ..spatial.geometry import resample_map
from ..spatial.landmark_files import fixed_to_moving
from ..spatial.warp import warp
from .assembly import common_values, field_metrics, label_metrics, landmark_metrics, mean_known, plain
from .overlap import dice


def pair_metrics(pair: Pair, ddf: Tensor | None) -> dict:
    """Overlap and surface distance of the labels, landmark error, and regularity of the field; each if available.

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


def moved_dice(output: Mapping, structures: int, moved: bool = True) -> float:
    """Mean Dice over the structures and the batch.

    Args:
        output: of an evaluator: "pred" is the DDF (B, n, *shape) in voxels, "label" (B, 2, *shape) moving and fixed.
        structures: labels 1 to this number are measured, except those that neither image contains.
        moved: False measures before the registration.
    """
    ddf, labels = output["pred"], torch.as_tensor(output["label"]).float()
    moving = warp(labels[:, 0:1], ddf.float(), mode="nearest") if moved else labels[:, 0:1]
    pairs = zip(moving[:, 0].round(), labels[:, 1].round())
    return mean_known(score for a, b in pairs for score in dice(a, b, range(1, structures + 1)).values())
