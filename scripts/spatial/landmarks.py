# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Landmarks in world millimetres, and moving them by a field.

A pull field maps fixed points to moving points; the other direction needs its inverse.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .geometry import Geometry, apply_affine
from .landmark_files import read_landmark_file
from .warp import sample


def read_landmarks(path: str | Path, geometry: Geometry, frame: str = "ras") -> NDArray:
    """The points (L, 3) RAS mm of a landmark file; ``frame`` is for files that do not name their own."""
    return read_landmark_file(path, geometry, frame, strict=False).points_ras


def write_landmarks(path: str | Path, points_ras: NDArray) -> None:
    """Writes (L, 3) RAS mm points as CSV with the header ``x,y,z``."""
    np.savetxt(path, points_ras, fmt="%.6f", delimiter=",", header="x,y,z", comments="")


def contains(grid: Geometry, points_ras: NDArray) -> NDArray:
    """Which of the points (L, 3) RAS mm lie in a grid, (L,) bool; for a 2-D grid, above or below its plane."""
    index = apply_affine(np.linalg.inv(grid.affine), points_ras)[:, : grid.ndim]
    return ((index >= -0.5) & (index <= np.asarray(grid.shape) - 0.5)).all(axis=1)


def fixed_to_moving(
    points_ras: NDArray, ddf: Tensor | None, fixed: Geometry, transform: NDArray | None = None
) -> NDArray:
    """Maps landmarks (L, 3) RAS mm of the fixed image to the moving image.

    Args:
        points_ras: (L, 3) RAS mm in the fixed image.
        ddf: (1, n, *fixed.shape) fixed voxels, linear between voxels and 0 outside, as in ITK; None for no deformation.
        fixed: grid of the field.
        transform: (4, 4) fixed world to moving world, RAS mm.
    """
    index = apply_affine(np.linalg.inv(fixed.affine), points_ras)
    if ddf is not None:
        n = fixed.ndim
        places = torch.as_tensor(index[:, :n].T.reshape(1, n, -1, *[1] * (n - 1)), dtype=ddf.dtype, device=ddf.device)
        shift = sample(ddf, places)[0].reshape(n, -1).T.double().cpu().numpy()
        index[:, :n] += shift * contains(fixed, points_ras)[:, None]
    points = apply_affine(fixed.affine, index)
    return points if transform is None else apply_affine(transform, points)
