# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Displacement fields in the format of the Learn2Reg challenges.

A field is on the fixed grid, in voxels of the moving image: the label of fixed voxel i is read at moving voxel
``i + disp[i]`` (``scipy.ndimage.map_coordinates``), regardless of the headers. Files are named ``disp_FFFF_MMMM``
after the fixed and the moving case. NIfTI and, in the present evaluation code, npz hold (X, Y, Z, 3); the npz of the
2020 and 2021 challenges held (3, X, Y, Z) in half precision, often at half resolution with displacements in voxels of
the full one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..common.errors import InputError
from ..common.files import existing
from .chain import Field, GridMap, Step, displacements
from .fields import check_finite
from .files import check_size, load_array, readable
from .geometry import Geometry, displacement_component

LAYOUTS = ("last", "first")


def read_learn2reg(path: str | Path, fixed: Geometry | None, moving: Geometry | None = None) -> Field:
    """Reads ``disp_*.npz`` or ``disp_*.nii.gz``.

    Args:
        path: (3, X, Y, Z) or (X, Y, Z, 3), at the resolution of the fixed image or at half of it.
        fixed: 3-D grid of the fixed image.
        moving: grid of the moving image; None takes the fixed one, as after the preprocessing of the challenge.

    Raises:
        InputError: no fixed grid, another kind of file, or another grid.
    """
    if fixed is None:
        raise InputError(f"{path} is a Learn2Reg field; give the fixed image with --reference.")
    disp = disp_array(path)
    if disp.ndim != 4 or 3 not in (disp.shape[0], disp.shape[-1]):
        raise InputError(f"{path} has shape {disp.shape}; a Learn2Reg field is (3, X, Y, Z) or (X, Y, Z, 3).")
    candidates = [disp] if disp.shape[0] == 3 else []
    candidates += [np.moveaxis(disp, -1, 0)] if disp.shape[-1] == 3 else []
    for candidate in candidates:
        if candidate.shape[1:] == fixed.shape:
            return displaced(candidate, fixed, moving or fixed)
    for candidate in candidates:
        if tuple(2 * s for s in candidate.shape[1:]) == fixed.shape:
            full = np.stack([ndimage.zoom(c, 2, order=2) for c in candidate])
            return displaced(full, fixed, moving or fixed)
    raise InputError(f"{path} is {disp.shape}, neither the fixed grid {fixed.shape} nor half of it; give its image.")


def disp_array(path: str | Path) -> NDArray:
    """The array of an npz (its first) or of a NIfTI file, float32."""
    path = Path(path)
    if path.suffix.lower() == ".npz":
        return load_array(path)
    with readable(path, "NIfTI"):
        image = nib.load(existing(path, "a field"))
        check_size(path, image.shape)
        data = np.asarray(image.dataobj, np.float32)
    return data[:, :, :, 0] if data.ndim == 5 and data.shape[3] == 1 else data


def displaced(disp: NDArray, fixed: Geometry, moving: Geometry) -> Field:
    """World field of ``moving index = fixed index + disp``, with ``disp`` (3, *fixed.shape) in moving voxels."""
    to_moving = moving.affine @ np.linalg.inv(fixed.affine)  # takes a fixed voxel to the moving voxel of the same index
    parts = (displacement_component(disp, fixed, to_moving, c).astype(np.float32) for c in range(3))
    return Field(np.stack(list(parts), axis=-1), fixed)


def write_learn2reg(
    path: str | Path, steps: Sequence[Step], fixed: Geometry, moving: Geometry, layout: str = "last"
) -> None:
    """Writes a chain between two 3-D grids as a Learn2Reg field.

    Args:
        path: ``.npz``, or ``.nii.gz`` for (X, Y, Z, 3) float32 with the fixed affine.
        steps: chain, fixed to moving.
        fixed: grid of the fixed image.
        moving: grid of the moving image.
        layout: of an npz: "last" writes (X, Y, Z, 3) float32, which the present evaluation reads; "first" writes
            (3, X, Y, Z) float16, the form of 2020 and 2021.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}.")
    if fixed.ndim != 3 or moving.ndim != 3:
        raise InputError("Learn2Reg fields are three-dimensional, so both images must be.")
    voxels = Geometry(fixed.shape, np.eye(4))
    disp = displacements(GridMap(steps, fixed, moving), GridMap([], voxels, voxels))
    check_finite(disp)
    path = Path(path)
    if path.suffix.lower() == ".npz":
        np.savez_compressed(path, disp.astype(np.float16) if layout == "first" else np.moveaxis(disp, 0, -1))
        return
    nib.save(nib.Nifti1Image(np.moveaxis(disp, 0, -1), fixed.affine), path)
