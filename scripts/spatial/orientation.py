# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Order and direction of array axes: a network sees every patient in the same orientation."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from .geometry import LPS, Geometry, reordered
from .warp import resize_ddf

STRAIGHT = np.cos(np.deg2rad(30))  # an axis within this angle of a patient axis takes its place
THICK = 1.5  # a voxel side this many times longer than the others is the slice distance


def oriented(grid: Geometry) -> Geometry:
    """The same voxels with their axes to the patient's left, back and head, and the axis of thick slices last.

    This is the order of axial DICOM slices and of the training data of the bundled networks. Axes oblique to the
    patient keep their order and direction, so the slices of a tilted stack stay as they are stored. 2-D grids stay.
    """
    if grid.ndim == 2:
        return grid
    spacing = np.asarray(grid.spacing)
    order, signs = np.arange(3), np.ones(3)
    if np.abs(grid.affine[:3, :3] / spacing).max(axis=0).min() > STRAIGHT:
        axes = nib.orientations.io_orientation(LPS @ grid.affine)
        order, signs = np.argsort(axes[:, 0]), axes[:, 1]
    thick = int(spacing.argmax())
    if spacing[thick] > THICK * np.delete(spacing, thick).max():
        order = np.append(order[order != thick], thick)
    return reordered(grid, order, signs)


def ddf_to_grid(ddf: Tensor, working: Geometry, fixed: Geometry) -> Tensor:
    """Resamples a field to another grid over the same box, whose axes may have another order and direction.

    Args:
        ddf: (1, n, *working.shape) voxels of ``working``.
        working: the grid of the field.
        fixed: the other grid.

    Returns:
        (1, n, *fixed.shape) voxels of ``fixed``.
    """
    n = fixed.ndim
    steps = [g.affine[:3, :3] / np.linalg.norm(g.affine[:3, :3], axis=0) for g in (fixed, working)]
    turn = np.rint(np.linalg.inv(steps[0]) @ steps[1])[:n, :n]
    order = np.abs(turn).argmax(axis=1)  # of the working axes, for each fixed axis
    signs = torch.as_tensor(turn[np.arange(n), order], dtype=ddf.dtype, device=ddf.device)
    ddf = ddf[:, order.tolist()].permute(0, 1, *(order + 2).tolist()) * signs.view(1, n, *[1] * n)
    return resize_ddf(ddf.flip([2 + a for a in range(n) if signs[a] < 0]), fixed.shape)
