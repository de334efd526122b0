# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Many masks on a coarser grid: only the box of each is averaged, a small part of the image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..metrics.overlap import bounding_boxes


def shrink_masks(masks: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.uint8) -> Tensor:
    """Mean coverage of masks in the voxels of another grid, as ``torch.nn.functional.interpolate`` in mode "area".

    Args:
        masks: (K, *grid) uint8 coverage 0..255.
        shape: of the new grid over the same box.
        dtype: of the result; an integer type is rounded.

    Returns:
        (K, *shape) coverage 0..255.
    """
    if tuple(masks.shape[1:]) == tuple(shape):
        return masks.to(dtype)
    answer = torch.zeros(len(masks), *shape, dtype=dtype, device=masks.device)
    for mask, small, box in zip(masks, answer, bounding_boxes(masks)):
        places, part = [], mask[box].float()
        if not part.numel():
            continue
        for axis, (size, new, span) in enumerate(zip(mask.shape, shape, box)):
            shares = _area_weights(size, new)[:, span].to(part)
            rows = shares.any(dim=1).nonzero()
            places.append(slice(int(rows[0]), int(rows[-1]) + 1))
            part = torch.tensordot(part, shares[places[-1]], ([axis], [1])).movedim(-1, axis)
        small[tuple(places)] = part if dtype.is_floating_point else part.round()
    return answer


@lru_cache(maxsize=32)
def _area_weights(size: int, new: int) -> Tensor:
    """Shares (new, size) of the old voxels of an axis in each new one: equal for all that it touches."""
    index = torch.arange(new)
    first, stop = index * size // new, -(-(index + 1) * size // new)
    inside = (torch.arange(size) >= first[:, None]) & (torch.arange(size) < stop[:, None])
    return inside / (stop - first)[:, None]
