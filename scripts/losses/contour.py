# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Contour-aware loss: Chamfer distance of contour points in mm, differentiable through the field (equation 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..spatial.warp import check_ddf


def contour_points(mask: Tensor, max_points: int | None = None) -> Tensor:
    """Voxels of a mask that touch its outside through a face; the border of the image is no contour.

    Args:
        mask: (*shape) bool.
        max_points: a random subset of this size where there are more.

    Returns:
        (P, n) integer voxel indices; (0, n) of an empty mask.
    """
    pool = F.max_pool2d if mask.ndim == 2 else F.max_pool3d
    outside = (~mask).float()[None, None]
    near = outside
    for axis in range(mask.ndim):
        size = [3 if a == axis else 1 for a in range(mask.ndim)]
        near = torch.maximum(near, pool(outside, size, stride=1, padding=[s // 2 for s in size]))
    points = (mask & (near[0, 0] > 0)).nonzero()
    if max_points is not None and len(points) > max_points:
        points = points[torch.randperm(len(points))[:max_points].to(points.device)]
    return points


def chamfer(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of each point to the nearest of the other set, both ways added.

    Args:
        a: (P, n) points.
        b: (Q, n) points in the same unit.

    Returns:
        scalar, unit squared.

    Raises:
        ValueError: a set without points.

    Reference:
        equation 7 of Xu et al., IPMI 2025; Fan et al., CVPR 2017.
    """
    if not len(a) or not len(b):
        raise ValueError(f"The Chamfer distance needs points in both sets, got {len(a)} and {len(b)}.")
    # The nearest points are found without a graph; the gradient flows through their distances alone, which keeps the
    # P x Q table out of the backward pass.
    with torch.no_grad():
        table = torch.cdist(a, b)
        to_b, to_a = table.argmin(dim=1), table.argmin(dim=0)
    return ((a - b[to_b]) ** 2).sum(dim=1).mean() + ((b - a[to_a]) ** 2).sum(dim=1).mean()


def contour_loss(
    ddf: Tensor,
    moving: Tensor,
    fixed: Tensor,
    structures: int,
    spacing: Sequence[float] | None = None,
    max_points: int | None = 1024,
) -> Tensor:
    """Chamfer distance between the moving contour and the fixed contour carried there by the field.

    A pull field maps fixed points to moving ones, so each fixed contour point j is compared at j + ddf(j); nothing
    has to be warped or thresholded, and the gradient is exact.

    Args:
        ddf: (1, n, *shape) voxels.
        moving: (*shape) labels.
        fixed: (*shape) labels.
        structures: labels 1 to this number are compared; those missing in an image are left out.
        spacing: mm along each axis; 1 if None.
        max_points: points a contour; bounds the memory to its square a structure. None takes all.

    Returns:
        mean over the structures present, mm squared; 0 (with a gradient of 0) if none is.
    """
    check_ddf(ddf)
    scale = ddf.new_tensor(list(spacing) if spacing is not None else [1.0] * ddf.shape[1])
    losses = []
    for value in range(1, structures + 1):
        a, b = (contour_points(labels == value, max_points) for labels in (moving, fixed))
        if not len(a) or not len(b):
            continue
        carried = b + ddf[0][(slice(None), *b.unbind(dim=1))].T
        losses.append(chamfer(a * scale, carried * scale))
    return torch.stack(losses).mean() if losses else ddf.sum() * 0
