# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Every number of one registered pair, the initial value beside the final one."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..data.pair import Pair
from ..spatial.geometry import resample_map
from ..spatial.landmarks import fixed_to_moving
from .jacobian import regularity
from .overlap import centroid_error, dice, hd95, target_registration_error


def pair_metrics(pair: Pair, ddf: Tensor | None) -> dict:
    """Overlap, surface distance, landmark error and regularity, as far as labels and landmarks are given.

    Args:
        pair: the images with their labels and landmarks.
        ddf: (1, n, *fixed.shape) fixed voxels on the native fixed grid, or None.

    Returns:
        a dict ready for JSON. Stages are "initial" (as scanned), "aligned" (after the initial alignment, when there
        was one) and "final" (with the field); distances are in mm; nan becomes None.
    """
    stages: dict[str, tuple] = {"initial": (None, None)}
    if not np.allclose(pair.transform, np.eye(4)):
        stages["aligned"] = (pair.transform, None)
    if ddf is not None:
        stages["final"] = (pair.transform, ddf)
    result: dict = {}
    if pair.moving_label is not None and pair.fixed_label is not None:
        fixed = torch.from_numpy(pair.fixed_label.array[0].astype(np.int64))
        moving = pair.moving_label.array[0]
        values = sorted(set(np.unique(fixed)) & set(np.unique(pair.moving_label.array)) - {0})
        for stage, (transform, field) in stages.items():
            grids = pair.moving_label.geometry, pair.fixed_label.geometry
            moved = torch.from_numpy(resample_map(moving, *grids, transform, field).astype(np.int64))
            spacing = pair.fixed.geometry.spacing
            measured = {
                "dice": dice(moved, fixed, values),
                "hd95_mm": hd95(moved, fixed, values, spacing),
                "centroid_mm": centroid_error(moved, fixed, values, spacing),
            }
            for key, numbers in measured.items():
                result.setdefault(key, {})[stage] = numbers | {"mean": mean_known(numbers)}
    if pair.moving_landmarks is not None and pair.fixed_landmarks is not None:
        for stage, (transform, field) in stages.items():
            moved = fixed_to_moving(pair.fixed_landmarks, field, pair.fixed.geometry, transform)
            errors = target_registration_error(moved, pair.moving_landmarks)
            result.setdefault("tre_mm", {})[stage] = {
                "mean": float(errors.mean()),
                "sd": float(errors.std()),
                "max": float(errors.max()),
                "n": len(errors),
            }
    if ddf is not None:
        spacing = torch.tensor(pair.fixed.geometry.spacing, device=ddf.device).view(
            1, -1, *[1] * pair.fixed.geometry.ndim
        )
        lengths = (ddf * spacing).norm(dim=1)
        result["field"] = regularity(ddf) | {
            "mean_displacement_mm": float(lengths.mean()),
            "max_displacement_mm": float(lengths.max()),
        }
    return plain(result)


def mean_known(values: dict[int, float]) -> float:
    """Mean of the values that are numbers; nan where there is none."""
    known = [v for v in values.values() if not math.isnan(v)]
    return sum(known) / len(known) if known else float("nan")


def plain(value):
    """Keys as text and nan as None: valid JSON."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
