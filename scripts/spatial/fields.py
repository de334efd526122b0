# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Displacement fields as files that ITK, ANTs and Slicer read: NIfTI, (X, Y, Z, 1, 3), intent 1007, LPS millimetres."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from numpy.typing import NDArray
from torch import Tensor

from ..common.errors import InputError
from ..common.files import existing
from .files import check_size, readable
from .geometry import LPS, Geometry, displacement_component

UNITS = {1: ("metres", 1000.0), 3: ("microns", 0.001)}  # NIfTI codes of units other than mm (2); 0 is unknown
VECTOR, DISPLACEMENT = 1007, 1006  # NIfTI intents: ITK reads the first as LPS, and flips the second, which is RAS
SLAB_VOXELS = 2_000_000


def write_field(path: str | Path, u_lps: NDArray, fixed: Geometry, intent: int = VECTOR) -> None:
    """Writes a displacement field.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        u_lps: (*fixed.shape, 3) LPS mm.
        fixed: grid of the field; a 2-D field becomes (X, Y, 1, 1, 3).
        intent: 1007 stores LPS mm, 1006 RAS mm.

    Raises:
        ValueError: a shape that does not fit the grid, or another intent.
        InputError: the field is not finite.
    """
    if intent not in (VECTOR, DISPLACEMENT):
        raise ValueError(f"intent must be {VECTOR} (LPS mm) or {DISPLACEMENT} (RAS mm), got {intent}.")
    data = np.asarray(u_lps, np.float32)
    if data.shape != (*fixed.shape, 3):
        raise ValueError(f"A field on grid {fixed.shape} must have shape {(*fixed.shape, 3)}, got {data.shape}.")
    check_finite(data)
    if intent == DISPLACEMENT:
        data = data * np.diag(LPS)[:3].astype(np.float32)
    nib.save(_image(data, fixed, intent), str(path))


def stream_field(path: str | Path, ddf: Tensor, fixed: Geometry, transform: NDArray) -> None:
    """Writes the file of :func:`write_field` from a field in voxels, slab by slab to save memory.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        ddf: (1, n, *fixed.shape) fixed voxels.
        fixed: its grid.
        transform: (4, 4) fixed world to moving world, RAS mm, applied after the field.
    """
    image = _image(np.broadcast_to(np.float32(0), (*fixed.shape, 3)), fixed, VECTOR)
    image.header.set_slope_inter(1, 0)
    step = max(1, SLAB_VOXELS // int(np.prod(fixed.shape[:-1])))
    with ImageOpener(str(path), "wb") as stream:
        image.header.write_to(stream)
        stream.write(b"\0" * (image.header.get_data_offset() - stream.tell()))
        for component in range(3):  # the slowest axis of the file
            for start in range(0, fixed.shape[-1], step):
                part = ddf[0, ..., start : start + step].numpy()
                u = displacement_component(part, fixed, transform, component, start)
                stream.write(u.astype(np.float32).tobytes(order="F"))


def _image(data: NDArray, fixed: Geometry, intent: int) -> nib.Nifti1Image:
    image = nib.Nifti1Image(np.expand_dims(data, tuple(range(fixed.ndim, 4))), fixed.affine)
    image.header.set_intent(intent, name=f"displacement {'LPS' if intent == VECTOR else 'RAS'} mm")
    image.header.set_xyzt_units("mm")
    image.set_sform(fixed.affine, 1)
    image.set_qform(fixed.affine, 1)
    return image


def check_finite(displacements: NDArray) -> None:
    """Raises :class:`InputError` for a field with NaN or infinite displacements, which must not become a result."""
    if not np.isfinite(displacements.sum(dtype=np.float64)):
        raise InputError("The displacement field is not finite; check the weights and the images. Nothing is written.")


def read_field(path: str | Path) -> tuple[NDArray, Geometry]:
    """Reads a NIfTI displacement field, intent 1007 (LPS mm) or 1006 (RAS mm).

    Returns:
        u_lps (*shape, 3) float32, and the grid; a field with one slice is 2-D.

    Raises:
        InputError: the file cannot be read.
        ValueError: the file is not a displacement field, or its header does not give its frame and unit.
    """
    with readable(path, "NIfTI"):
        image = nib.load(str(existing(path, "a displacement field")))
        shape, intent = image.shape, int(image.header["intent_code"])
        unit = int(image.header["xyzt_units"]) & 7
    if len(shape) != 5 or shape[3] != 1 or shape[4] != 3:
        raise ValueError(f"{path} has shape {shape}; a displacement field has shape (X, Y, Z, 1, 3).")
    if intent not in (VECTOR, DISPLACEMENT):
        raise ValueError(f"{path} has NIfTI intent {intent}; a field needs 1007 (LPS mm) or 1006 (RAS mm).")
    if unit in UNITS:
        raise InputError(f"{path} has lengths in {UNITS[unit][0]}; a field needs millimetres.")
    check_size(path, shape)
    with readable(path, "NIfTI"):
        data = np.asarray(image.dataobj, np.float32)[:, :, :, 0]
    if intent == DISPLACEMENT:
        data = data * np.diag(LPS)[:3].astype(np.float32)
    if shape[2] == 1:
        return data[:, :, 0], Geometry(shape[:2], image.affine)
    return data, Geometry(shape[:3], image.affine)
