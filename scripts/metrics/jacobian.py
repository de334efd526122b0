# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How regular a field is: Jacobian determinant, folding, SDlogJ."""

from __future__ import annotations

import torch
from torch import Tensor

from ..spatial.warp import check_ddf

FLOOR, CEILING = 1e-9, 1e9


def jacobian_determinant(ddf: Tensor) -> Tensor:
    """Determinant of the Jacobian of ``x + ddf(x)`` by central differences (one-sided at the border).

    Voxel units give the same determinant as millimetres, because the voxel size cancels.

    Args:
        ddf: (B, n, *shape) voxels, at least two voxels along each axis; an axis of one voxel does not deform.

    Returns:
        (B, *shape).
    """
    check_ddf(ddf)
    n = ddf.shape[1]
    wide = [i for i in range(n) if ddf.shape[2 + i] > 1]
    matrix = torch.eye(n, device=ddf.device, dtype=ddf.dtype).expand(ddf.shape[0], *ddf.shape[2:], n, n).clone()
    for i in range(n):
        slopes = torch.gradient(ddf[:, i], dim=[1 + j for j in wide])
        for j, slope in zip(wide, slopes):
            matrix[..., i, j] += slope
    return torch.linalg.det(matrix)


def regularity(ddf: Tensor, margin: int = 0) -> dict[str, float]:
    """Summary of a field.

    Args:
        ddf: (1, n, *shape) voxels.
        margin: voxels left out along every border; the evaluation of Learn2Reg leaves out 2.

    Returns:
        "folds_percent": share of voxels whose determinant is not positive;
        "sdlogj": standard deviation of log(clamp(det + 3)), the convention of Learn2Reg and of the network paper;
        "sdlogj_plain": standard deviation of log(clamp(det)).
    """
    det = jacobian_determinant(ddf.double())
    if margin:
        det = det[(slice(None), *(slice(margin, s - margin) if s > 2 * margin else slice(None) for s in det.shape[1:]))]
    return {
        "folds_percent": float((det <= 0).double().mean() * 100),
        "sdlogj": float((det + 3).clamp(FLOOR, CEILING).log().std()),
        "sdlogj_plain": float(det.clamp(FLOOR, CEILING).log().std()),
    }
