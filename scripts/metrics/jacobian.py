# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Regularity of a field: Jacobian determinant, folding, SDlogJ."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..spatial.warp import check_ddf

FLOOR, CEILING = 1e-9, 1e9
SLAB_VOXELS = 1_000_000  # a 3 x 3 matrix per voxel of a whole CT would not fit in memory


def jacobian_determinant(ddf: Tensor) -> Tensor:
    """Determinant (B, *shape) of the Jacobian of ``x + ddf(x)`` by central differences (one-sided at the border).

    It is the same in voxels and in millimetres, because the voxel size cancels. An axis of one voxel does not deform.
    """
    return torch.cat(list(_slabs(ddf, ddf.dtype)), dim=1)


def regularity(ddf: Tensor, margin: int = 0) -> dict[str, float]:
    """Summary of a field, computed in double precision.

    Args:
        ddf: (1, n, *shape) voxels.
        margin: voxels left out along every border; the evaluation of Learn2Reg leaves out 2.

    Returns:
        "folds_percent": percentage of voxels whose determinant is not positive;
        "sdlogj": standard deviation of log(clamp(det + 3)), the convention of Learn2Reg and of the network paper;
        "sdlogj_plain": standard deviation of log(clamp(det)).
    """
    shape = ddf.shape[2:]
    inner = [(margin, s - margin) if margin and s > 2 * margin else (0, s) for s in shape]
    rest = tuple(slice(*ends) for ends in inner[1:])
    count, folds, start = 0, 0, 0
    sums = {3: torch.zeros(2, dtype=torch.float64), 0: torch.zeros(2, dtype=torch.float64)}
    for det in _slabs(ddf, torch.float64):
        first, last = (min(max(end - start, 0), det.shape[1]) for end in inner[0])
        start += det.shape[1]
        det = det[(slice(None), slice(first, last), *rest)]
        count += det.numel()
        folds += int((det <= 0).sum())
        for shift, total in sums.items():
            # The logarithm of an undeformed voxel is subtracted, so that the sums of squares stay exact.
            logs = (det + shift).clamp(FLOOR, CEILING).log() - math.log(1 + shift)
            total += torch.stack([logs.sum(), logs.square().sum()]).cpu()
    spread = {shift: _sd(*total.tolist(), count) for shift, total in sums.items()}
    return {"folds_percent": folds / count * 100, "sdlogj": spread[3], "sdlogj_plain": spread[0]}


def _sd(total: float, squares: float, count: int) -> float:
    """Sample standard deviation from a sum and a sum of squares."""
    return math.sqrt(max(0.0, squares - total**2 / count) / (count - 1)) if count > 1 else math.nan


def _slabs(ddf: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Determinants (B, slab, ...) slab by slab along the first axis."""
    check_ddf(ddf)
    n, length = ddf.shape[1], ddf.shape[2]
    wide = [i for i in range(n) if ddf.shape[2 + i] > 1]
    thickness = max(1, SLAB_VOXELS * length // max(1, ddf[:, 0].numel()))
    for start in range(0, length, thickness):
        stop = min(start + thickness, length)
        low, high = max(0, start - 1), min(length, stop + 1)  # neighbours for the central differences
        part = ddf[:, :, low:high].to(dtype)
        rows = []
        for i in range(n):
            row: list[Tensor | float] = [0.0] * n
            for j, slope in zip(wide, torch.gradient(part[:, i], dim=[1 + j for j in wide]) if wide else ()):
                row[j] = slope
            row[i] = row[i] + torch.ones_like(part[:, i])
            rows.append(row)
        yield _determinant(rows)[:, start - low : stop - low]


def _determinant(rows: list[list[Tensor | float]]) -> Tensor:
    """Determinant of a 2 x 2 or 3 x 3 matrix of volumes; torch.linalg.det takes ten times as long."""
    if len(rows) == 2:
        (a, b), (c, d) = rows
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
