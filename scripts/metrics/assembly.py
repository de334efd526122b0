# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""All metrics of a registered pair, stage by stage.

A new metric of label maps is a function in :mod:`scripts.metrics.overlap` and a line in ``LABEL_METRICS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .jacobian import regularity
from .overlap import assd, centroid_error, dice, hd95, target_registration_error

STAGES = ("initial", "aligned", "final")
LABEL_METRICS: dict[str, Callable[[Tensor, Tensor, Sequence[int], Sequence[float]], dict[int, float]]] = {
    "dice": lambda moved, fixed, values, spacing: dice(moved, fixed, values),
    "hd95_mm": hd95,
    "assd_mm": assd,
    "centroid_mm": centroid_error,
}
TITLES = {
    "dice": "Dice",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "centroid_mm": "centroid distance (mm)",
    "region_dice": "Dice of paired regions",
    "tre_mm": "TRE (mm)",
    "folds_percent": "folds (%)",
    "sdlogj": "SDlogJ (det + 3)",
    "sdlogj_plain": "SDlogJ",
    "mean_displacement_mm": "mean displacement (mm)",
    "max_displacement_mm": "largest displacement (mm)",
}


def common_values(moving: NDArray, fixed: NDArray) -> list[int]:
    """Label values other than 0 that both maps contain, in order."""
    return sorted(set(np.unique(fixed).tolist()) & set(np.unique(moving).tolist()) - {0})


def label_metrics(
    moved: Iterable[tuple[str, NDArray]], fixed: NDArray, values: Sequence[int], spacing: Sequence[float]
) -> dict[str, dict]:
    """Every metric of ``LABEL_METRICS``, by metric, stage and label value, with the "mean" over the values.

    Args:
        moved: name of each stage and the moving labels on the fixed grid at that stage.
        fixed: labels of the fixed image.
        values: label values to compare.
        spacing: mm of the fixed grid.
    """
    result: dict[str, dict] = {}
    target = _whole(fixed)
    for stage, labels in moved:
        source = _whole(labels)
        for key, measure in LABEL_METRICS.items():
            numbers = measure(source, target, values, spacing)
            result.setdefault(key, {})[stage] = numbers | {"mean": mean_known(numbers.values())}
    return result


def landmark_metrics(moved: Iterable[tuple[str, NDArray]], moving: NDArray) -> dict[str, dict]:
    """Landmark error in mm by stage, under "tre_mm".

    ``moved`` gives the name of each stage and the fixed landmarks (L, 3) mm mapped into the moving image at that stage;
    ``moving`` (L, 3) mm are their true positions there.
    """
    result = {}
    for stage, points in moved:
        errors = target_registration_error(points, moving)
        result[stage] = {
            "mean": float(errors.mean()),
            "sd": float(errors.std()),
            "max": float(errors.max()),
            "p95": float(np.percentile(errors, 95)),
            "n": len(errors),
        }
    return {"tre_mm": result}


def field_metrics(ddf: Tensor, spacing: Sequence[float], margin: int = 0) -> dict[str, dict]:
    """Regularity and length of a field (1, n, *shape) in voxels of ``spacing`` mm, under "field".

    For ``margin`` see :func:`scripts.metrics.jacobian.regularity`.
    """
    scale = torch.tensor(spacing, device=ddf.device, dtype=ddf.dtype).view(1, -1, *[1] * len(spacing))
    total, longest = 0.0, 0.0
    for part in ddf.split(16, dim=2):  # the lengths of a whole CT would take 1 GB
        lengths = (part * scale).square_().sum(dim=1).sqrt_()  # .norm(dim=1) takes twenty times as long
        total, longest = total + float(lengths.double().sum()), max(longest, float(lengths.max()))
    mean = total / ddf[:, 0].numel()
    return {"field": regularity(ddf, margin) | {"mean_displacement_mm": mean, "max_displacement_mm": longest}}


def mean_known(values: Iterable[float]) -> float:
    """Mean of the values that are numbers; nan where there is none."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else float("nan")


def plain(value: Any) -> Any:
    """The same value as valid JSON: keys as text, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole(labels: NDArray) -> Tensor:
    """Labels as a tensor, in a type that torch can compare and that holds all their values."""
    return torch.from_numpy(labels if labels.dtype in (np.uint8, np.int16, np.int32) else labels.astype(np.int64))
