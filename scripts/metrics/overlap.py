# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Overlap and surface distance of label maps, and landmark error in millimetres."""

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
    """Dice of each label value of two maps of integers; nan where neither map contains it."""
    scores = {}
    for value in values:
        x, y = a == value, b == value
        total = int(x.sum()) + int(y.sum())
        scores[int(value)] = 2 * int((x & y).sum()) / total if total else float("nan")
    return scores


def hd95(a: Tensor, b: Tensor, values: Sequence[int], spacing: Sequence[float]) -> dict[int, float]:
    """95th-percentile Hausdorff distance in mm of each label value; nan where either map lacks it.

    The maps (H, W[, D]) hold integers; ``spacing`` is mm along each axis.
    """
    return _per_label(compute_hausdorff_distance, a, b, values, spacing, percentile=95)


def assd(a: Tensor, b: Tensor, values: Sequence[int], spacing: Sequence[float]) -> dict[int, float]:
    """Average symmetric surface distance in mm of each label value; nan where either map lacks it.

    The arguments are those of :func:`hd95`.
    """
    return _per_label(compute_average_surface_distance, a, b, values, spacing, symmetric=True)


def centroid_error(a: Tensor, b: Tensor, values: Sequence[int], spacing: Sequence[float]) -> dict[int, float]:
    """Distance in mm between the centroids of each label value; nan where either map lacks it.

    The target registration error of Huang et al. 2024 (section 5) for images without landmarks. The arguments are those
    of :func:`hd95`.
    """
    errors = {}
    for value in values:
        places = [(label == value).nonzero().double() for label in (a, b)]
        apart = (places[0].mean(dim=0) - places[1].mean(dim=0)) * torch.tensor(list(spacing), dtype=torch.float64)
        errors[int(value)] = float(apart.norm())  # the mean of no voxels is nan
    return errors


def target_registration_error(moved_points: NDArray, moving_points: NDArray) -> NDArray:
    """Distance (L,) in mm between fixed landmarks (L, 3) mapped into the moving image and the true ones (L, 3) there.

    Raises:
        ValueError: different numbers of landmarks.
    """
    if moved_points.shape != moving_points.shape:
        raise ValueError(f"Landmarks must be paired, got {len(moved_points)} fixed and {len(moving_points)} moving.")
    return np.linalg.norm(moved_points - moving_points, axis=1)


def _per_label(
    distance: Callable[..., Tensor], a: Tensor, b: Tensor, values: Sequence[int], spacing: Sequence[float], **more: Any
) -> dict[int, float]:
    """A border distance of MONAI for each label, computed in the box that holds both structures."""
    more |= {"include_background": True, "spacing": [float(s) for s in spacing]}
    distances = {}
    with warnings.catch_warnings():
        # MONAI passes a deprecated argument to itself.
        warnings.filterwarnings("ignore", "monai.metrics.utils get_mask_edges", FutureWarning)
        for value in values:
            x, y = a == value, b == value
            if not (x.any() and y.any()):
                distances[int(value)] = float("nan")
                continue
            box = bounding_box(x | y)
            distances[int(value)] = float(distance(x[box][None, None], y[box][None, None], **more))
    return distances


def bounding_box(mask: Tensor | NDArray, margin: int = 2) -> tuple[slice, ...]:
    """The smallest box around the true voxels of a mask, widened by ``margin`` voxels; empty for an empty mask."""
    box = bounding_boxes(torch.as_tensor(mask)[None])[0]
    if box[0].start == box[0].stop:
        return box
    return tuple(slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(box, mask.shape))


def bounding_boxes(masks: Tensor) -> list[tuple[slice, ...]]:
    """The smallest box around the true voxels of each of K masks (K, *shape); empty for an empty mask."""
    ends = []
    for axis, size in enumerate(masks.shape[1:], start=1):
        seen = masks
        for other in reversed(range(1, masks.ndim)):
            seen = seen.any(dim=other, keepdim=True) if other != axis else seen
        seen = seen.reshape(len(masks), size).int()
        first, stop = seen.argmax(dim=1), size - seen.flip(1).argmax(dim=1)
        ends.append(torch.stack([first, stop.where(seen.any(dim=1), 0)], dim=1))
    spans = torch.stack(ends, dim=1).tolist() if len(masks) else []
    return [tuple(slice(*span) for span in box) for box in spans]
