# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Dice and surface distances per structure, and landmark error, in millimetres."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from numpy.typing import NDArray
from torch import Tensor


def dice(a: Tensor, b: Tensor, values: Sequence[int]) -> dict[int, float]:
    """Dice of each label value between two label maps of one shape; nan where neither has it.

    Args:
        a: integer labels.
        b: integer labels of the same shape.
        values: label values to compare.
    """
    scores = {}
    for value in values:
        x, y = a == value, b == value
        total = int(x.sum()) + int(y.sum())
        scores[int(value)] = 2 * int((x & y).sum()) / total if total else float("nan")
    return scores


def hd95(a: Tensor, b: Tensor, values: Sequence[int], spacing: Sequence[float]) -> dict[int, float]:
    """95th-percentile Hausdorff distance in mm of each label value; nan where either image lacks it.

    Args:
        a: integer labels (H, W[, D]).
        b: integer labels of the same shape.
        values: label values to compare.
        spacing: mm along each axis.
    """
    return _per_label(compute_hausdorff_distance, a, b, values, spacing, percentile=95)


def assd(a: Tensor, b: Tensor, values: Sequence[int], spacing: Sequence[float]) -> dict[int, float]:
    """Average symmetric surface distance in mm of each label value; nan where either image lacks it.

    The mean over the border voxels of both structures of the distance to the other's border.

    Args:
        a: integer labels (H, W[, D]).
        b: integer labels of the same shape.
        values: label values to compare.
        spacing: mm along each axis.
    """
    return _per_label(compute_average_surface_distance, a, b, values, spacing, symmetric=True)


def centroid_error(a: Tensor, b: Tensor, values: Sequence[int], spacing: Sequence[float]) -> dict[int, float]:
    """Distance in mm between the centroids of each label value in two label maps; nan where either lacks it.

    The target registration error of Huang et al. 2024 (section 5) for images without landmarks.

    Args:
        a: integer labels (H, W[, D]).
        b: integer labels of the same shape.
        values: label values to compare.
        spacing: mm along each axis.
    """
    errors = {}
    for value in values:
        places = [(label == value).nonzero().double() for label in (a, b)]
        apart = (places[0].mean(dim=0) - places[1].mean(dim=0)) * torch.tensor(list(spacing), dtype=torch.float64)
        errors[int(value)] = float(apart.norm())  # the mean of no voxel is nan
    return errors


def _per_label(
    distance: Callable[..., Tensor],
    a: Tensor,
    b: Tensor,
    values: Sequence[int],
    spacing: Sequence[float],
    **options: Any,
) -> dict[int, float]:
    """A border distance of MONAI per label, without its warning about an argument that it gives to itself."""
    options |= {"include_background": True, "spacing": [float(s) for s in spacing]}
    distances = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "monai.metrics.utils get_mask_edges", FutureWarning)
        for value in values:
            x, y = (a == value)[None, None], (b == value)[None, None]
            both = bool(x.any() and y.any())
            distances[int(value)] = float(distance(x, y, **options)) if both else float("nan")
    return distances


def target_registration_error(moved_points: NDArray, moving_points: NDArray) -> NDArray:
    """Distance in mm of each landmark pair.

    Args:
        moved_points: (L, 3) fixed landmarks taken to the moving image by the registration, mm.
        moving_points: (L, 3) the true places there, mm.

    Raises:
        ValueError: different numbers of landmarks.
    """
    if moved_points.shape != moving_points.shape:
        raise ValueError(
            f"Landmarks must come in pairs, got {len(moved_points)} fixed and {len(moving_points)} moving."
        )
    return np.linalg.norm(moved_points - moving_points, axis=1)
