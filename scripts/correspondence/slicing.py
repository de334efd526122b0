# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Cuts a working image into the slices that SAM sees, and returns maps on slices to the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import torch
from torch import Tensor

from ..common.errors import InputError
from ..spatial.geometry import Geometry


@dataclass(frozen=True)
class SlicePlan:
    """Which slices SAM sees, and their orientation.

    Attributes:
        axis: slice axis of the volume, None for a 2-D image.
        indices: slice numbers, increasing.
        count: number of slices of the volume.
        transposed: whether the first in-plane axis becomes the columns.
        flips: whether rows and columns run against their array axes.
    """

    axis: int | None
    indices: tuple[int, ...]
    count: int
    transposed: bool
    flips: tuple[bool, bool]

    def cut(self, image: Tensor) -> Tensor:
        """Slices (N, 3, H, W) in 0..255 of an image (C, *shape) in [0, 1]."""
        stack = image[None] if self.axis is None else image.movedim(1 + self.axis, 0)[list(self.indices)]
        stack = stack.transpose(2, 3) if self.transposed else stack
        stack = stack.flip([2 + i for i, f in enumerate(self.flips) if f])
        return stack.expand(-1, 3, -1, -1) * 255

    def place(self, stack: Tensor) -> Tensor:
        """Maps on slices (N, H, W) back to a volume (*shape), linear between planned slices and 0 beyond them."""
        planes, values = self.place_run(stack)
        if self.axis is None or len(values) == self.count:
            return values[0] if self.axis is None else values.movedim(0, self.axis)
        volume = stack.new_zeros(self.count, *values.shape[1:])
        volume[planes] = values
        return volume.movedim(0, self.axis)

    def place_run(self, stack: Tensor, first: int = 0) -> tuple[slice, Tensor]:
        """As :meth:`place` for a run of planned slices, where the maps of all others are 0.

        Args:
            stack: (M, H, W) maps on the planned slices ``first`` to ``first + M - 1``.
            first: position of the run among the planned slices.

        Returns:
            the slices of the volume that the run reaches, and their values (planes, *plane of the volume).
        """
        stack = stack.flip([1 + i for i, f in enumerate(self.flips) if f])
        stack = stack.transpose(1, 2) if self.transposed else stack
        if len(self.indices) == self.count:
            return slice(first, first + len(stack)), stack
        low, high, part, near = _between(self.indices, self.count)
        shown = [(k >= first) & (k < first + len(stack)) for k in (low, high)]
        reached = (near & (shown[0] | shown[1])).nonzero()
        planes = slice(int(reached.min()), int(reached.max()) + 1)
        below, above = (
            stack[(k[planes] - first).clamp(0, len(stack) - 1)] * (weight * inside)[planes].to(stack)[:, None, None]
            for k, weight, inside in ((low, 1 - part, shown[0]), (high, part, shown[1]))
        )
        return planes, below + above

    def pixel_mm2(self, spacing: Sequence[float]) -> float | None:
        """Area of a pixel of the slices of a volume; None for a picture, whose pixels need not have a size."""
        return None if self.axis is None else math.prod(s for a, s in enumerate(spacing) if a != self.axis)

    def to_index(self, points: Tensor, slice_number: Tensor, size: tuple[int, int]) -> Tensor:
        """Voxel indices (K, n) of slice coordinates (K, 2) as x, y in pixels of slices of ``size`` (H, W)."""
        rows, columns = points[:, 1] - 0.5, points[:, 0] - 0.5
        rows = size[0] - 1 - rows if self.flips[0] else rows
        columns = size[1] - 1 - columns if self.flips[1] else columns
        plane = torch.stack([columns, rows] if self.transposed else [rows, columns], dim=1)
        if self.axis is None:
            return plane
        through = torch.tensor(self.indices, dtype=plane.dtype)[slice_number.long()]
        return torch.cat([plane[:, : self.axis], through[:, None], plane[:, self.axis :]], dim=1)

    def from_index(self, points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Inverse of :meth:`to_index`: coordinates (K, 2) as x, y in pixels, and the nearest shown slice (K,)."""
        if self.axis is None:
            plane, position = points, torch.zeros(len(points), dtype=torch.long)
        else:
            plane = torch.cat([points[:, : self.axis], points[:, self.axis + 1 :]], dim=1)
            distance = (points[:, self.axis, None] - torch.tensor(self.indices, dtype=points.dtype)).abs()
            position = distance.argmin(dim=1)
        columns, rows = plane.unbind(1) if self.transposed else plane.flip(1).unbind(1)
        rows = size[0] - 1 - rows if self.flips[0] else rows
        columns = size[1] - 1 - columns if self.flips[1] else columns
        return torch.stack([columns, rows], dim=1) + 0.5, position


def plan_slices(working: Geometry, axis: int | str = "auto", spacing_mm: float = 0.0) -> SlicePlan:
    """Decides which slices to show.

    Args:
        working: grid of the image.
        axis: slice axis 0, 1 or 2, or "auto": the axis of the thickest voxels, or the superior axis among equals.
        spacing_mm: least distance between the slices shown; maps on the others are interpolated. 0 shows all.
    """
    codes = nib.aff2axcodes(working.affine)
    if working.ndim == 2:
        return SlicePlan(None, (0,), 1, *_display(codes[:2]))
    if axis == "auto":
        spacing = working.spacing
        thick = max(spacing)
        axis = max(range(3), key=lambda a: (spacing[a] > 0.9 * thick, codes[a] in "SI", a))
    if axis not in (0, 1, 2):
        raise InputError(f"slice_axis must be auto, 0, 1 or 2, got {axis!r}.")
    count = working.shape[axis]
    step = max(1, int(spacing_mm / working.spacing[axis] + 0.5)) if spacing_mm else 1
    step = min(step, max(1, count // 2))
    indices = tuple(range(min(step // 2, count - 1), count, step))
    return SlicePlan(axis, indices, count, *_display(tuple(c for a, c in enumerate(codes) if a != axis)))


def _between(indices: tuple[int, ...], count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each of ``count`` slices: the shown slices below and above, the weight of the upper one, and nearness."""
    known = torch.tensor(indices, dtype=torch.float32)
    where = torch.arange(count, dtype=torch.float32)
    high = torch.searchsorted(known, where).clamp_max(len(known) - 1)
    low = torch.where(known[high] > where, high - 1, high).clamp_min(0)
    part = ((where - known[low]) / (known[high] - known[low]).clamp_min(1)).clamp(0, 1)
    half = known.diff().max() / 2 if len(known) > 1 else torch.tensor(0.5)
    return low, high, part, (where >= known[0] - half) & (where <= known[-1] + half)


def _display(codes: tuple[str, str]) -> tuple[bool, tuple[bool, bool]]:
    """Whether to transpose, and which of (rows, columns) to flip, for a radiological display of a slice."""
    sideways = [c in "LR" for c in codes]
    transposed = sideways[0] or (not any(sideways) and codes[0] in "PA")
    row, column = (codes[1], codes[0]) if transposed else codes
    return transposed, (row in "AS", column in "RA")
