# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Where two images differ: the window of the slices that gets a second, closer look.

A model sees a slice at a fixed number of pixels. In a whole image a beating heart fills an eighth of them, so its
outlines are coarse; in a window it fills half. No prompt is needed: the images differ where something moved.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

SHARE = 0.65  # of the difference that the window must contain
SIDES = (0.5, 0.6)  # of the longer side of a slice; a larger window shows little more than the whole


def focus_window(moving: Tensor, fixed: Tensor) -> tuple[int, int, int, int] | None:
    """The smallest square window that contains most of the difference of two stacks.

    Args:
        moving: (N, C, H, W) slices.
        fixed: (N, C, H, W) the same slices of the other image.

    Returns:
        x0, y0, x1, y1 in pixels; None if the difference is spread over the slices.
    """
    height, width = moving.shape[2:]
    difference = (moving - fixed).abs().float().mean(dim=(0, 1))
    grain = max(3, max(height, width) // 32 | 1)
    smooth = F.avg_pool2d(difference[None, None], grain, 1, grain // 2, count_include_pad=False)
    energy = (smooth - smooth.median()).clamp_min(0) ** 2
    total = float(energy.sum())
    if total <= 0:
        return None
    for share in SIDES:
        side = round(share * max(height, width))
        rows, columns = min(side, height), min(side, width)
        inside = F.avg_pool2d(energy, (rows, columns), 1)[0, 0] * rows * columns
        if float(inside.max()) >= SHARE * total:
            y, x = divmod(int(inside.argmax()), inside.shape[1])
            return x, y, x + columns, y + rows
    return None
