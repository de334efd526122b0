# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Which points of a grid become prompts: none in the air around a patient, none in a window that is segmented again.

About half of the points of an abdominal CT are in air, whose mask the region filter drops because of its border.
"""

from __future__ import annotations

import torch
from skimage.measure import label
from torch import Tensor
from torch.nn import functional as F

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of a slice
AIR = 0.04 * 255  # brightest pixel of the air around a patient


def in_air(points: Tensor, picture: Tensor) -> Tensor:
    """Whether points lie in the air around a patient, dark and connected with the border: (P,) bool.

    Args:
        points: (P, 2) x, y in pixels.
        picture: (3, H, W) in 0..255.
    """
    dark = F.pad((picture.amax(dim=0) <= AIR).cpu(), (1, 1, 1, 1), value=True)
    around = torch.from_numpy(label(dark.numpy(), connectivity=1))
    air = (around == around[0, 0])[1:-1, 1:-1].to(points.device)
    x, y = points.long().T
    return air[y, x]


def in_window(points: Tensor, window: Window) -> Tensor:
    """Whether points (P, 2) lie in a window."""
    x, y = points.T
    x0, y0, x1, y1 = window
    return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)


def mostly_within(boxes: Tensor, window: Window, most: float = 0.8) -> Tensor:
    """Whether more than the share ``most`` of boxes (K, 4) x0, y0, x1, y1 lies in a window: (K,) bool."""
    low, high, limit = boxes[:, :2], boxes[:, 2:], boxes.new_tensor(window)
    common = (torch.minimum(high, limit[2:]) - torch.maximum(low, limit[:2])).clamp_min(0).prod(dim=1)
    return common > most * (high - low).prod(dim=1)
