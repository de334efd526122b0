# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Confidence of the dense field at every voxel: agreement with the backward search, and a clear minimum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..spatial.warp import compose, resize_ddf
from .staged_search import Found


def confidence(displacement: Tensor, found: Found, spacing: Sequence[float], tolerance_mm: float) -> Tensor:
    """Confidence of a field.

    A voxel is mapped to the moving image by the final field and back by the backward field of the search. If it misses
    its place by d, the agreement is ``1 / (1 + (d / tolerance)^2)``. It is multiplied by 1 minus the width of
    the minimum of the costs, because a choice among equally good displacements is a guess.

    Args:
        displacement: (1, n, *shape) voxels, the final field before the linear start.
        found: the result of the search.
        spacing: mm.
        tolerance_mm: distance d at which the agreement is one half.

    Returns:
        (1, 1, *shape) in [0, 1].
    """
    shape = tuple(displacement.shape[2:])
    back = compose(resize_ddf(found.backward, shape), displacement)
    scale = back.new_tensor(list(spacing)).view(1, -1, *[1] * len(shape))
    miss = (back * scale).square().sum(dim=1, keepdim=True).sqrt() / tolerance_mm  # norm() takes 40 times as long
    width = F.interpolate(found.width, shape, mode="bilinear" if len(shape) == 2 else "trilinear", align_corners=False)
    return (torch.ones_like(miss) / (1 + miss.square()) * (1 - width)).clamp(0, 1)
