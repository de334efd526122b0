# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Enlarging an image to sizes that a network can halve, and taking the result back."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pad_far(image: Tensor, sizes: list[int]) -> Tensor:
    """Repeats the far borders of an image (B, C, *shape) up to these sizes."""
    padding: list[int] = []
    for old, new in zip(image.shape[2:][::-1], sizes[::-1]):
        padding += [0, new - old]
    return F.pad(image, padding, mode="replicate") if sum(padding) > 0 else image


def crop_far(field: Tensor, shape: list[int]) -> Tensor:
    """The part of a field (B, n, *sizes) that belongs to an image of this shape before :func:`pad_far`."""
    for axis, size in enumerate(shape):
        field = field.narrow(2 + axis, 0, size)
    return field


def multiples(shape: list[int], steps: list[int]) -> list[int]:
    """Each size rounded up to a multiple of its step."""
    return [-(-size // step) * step for size, step in zip(shape, steps)]
