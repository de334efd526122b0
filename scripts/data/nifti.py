# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Reading NIfTI images: voxel sizes, units, and the two affines that a header may contain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..common.errors import InputError
from ..spatial.fields import DISPLACEMENT, UNITS, VECTOR
from ..spatial.files import check_size, readable
from ..spatial.geometry import apply_affine, corners

COLOUR = "RGB"  # name of the intent of a NIfTI file in colour
APART_MM = 0.1  # shift between the two affines of a header that is worth a warning


def read_nifti(
    path: Path, policy: str, pick: Callable[[int | None], int | None], notes: list[str]
) -> tuple[NDArray, NDArray, nib.Nifti1Header | None]:
    """Reads one frame of a NIfTI or Analyze file.

    Args:
        path: of the file.
        policy: see :func:`scripts.data.reader.read_volume`.
        pick: chooses a frame, given their number; called with None for a file that is not a series.
        notes: gets the warnings.

    Returns:
        The values (C, X, Y, Z), the (4, 4) RAS affine in mm, and the header if it is NIfTI.
    """
    with readable(path, "NIfTI"):
        image = nib.load(path)
        shape, header = image.shape, image.header
        vectors = len(shape) == 5 and shape[3:] == (1, 3)
        if vectors and _displaces(header, image.get_data_dtype()):
            raise InputError(f"{path} is a displacement field, not an image; give the image that it belongs to.")
        if len(shape) > 4 and not vectors and np.prod(shape[4:]) > 1:
            raise InputError(f"{path} has the shape {shape}; images of more than 4 dimensions cannot be registered.")
        frame = pick(shape[3] if len(shape) > 3 and not vectors else None)
        check_size(path, shape if frame is None else shape[:3])
        # Only the chosen frame is read: a whole series would take many times the memory.
        array = np.asanyarray(image.dataobj if frame is None else image.dataobj[(..., frame, *[0] * (len(shape) - 4))])
        zooms = _voxel_size(image)
    if array.dtype.names:  # RGB24
        array = np.stack([array[c] for c in array.dtype.names[:3]], axis=0)
    elif vectors:
        array = np.moveaxis(array[:, :, :, 0], -1, 0)
    else:
        array = array[None]
    array = array.reshape(*array.shape, *[1] * (4 - array.ndim))
    if np.any(zooms <= 0) or not np.all(np.isfinite(zooms)):
        raise InputError(f"{path} has the voxel size {zooms.tolist()} mm, which is not usable; correct its header.")
    affine = _affine(path, image, zooms, policy, notes)
    return array, affine, header if isinstance(header, nib.Nifti1Header) else None


def _affine(
    path: Path, image: nib.spatialimages.SpatialImage, zooms: NDArray, policy: str, notes: list[str]
) -> NDArray:
    affine = np.asarray(image.affine, float).copy()
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    if policy != "affine" and np.all(norms > 1e-6) and not np.allclose(norms, zooms, rtol=0.01):
        if policy == "auto":
            notes.append(
                f"{path}: the affine says {np.round(norms, 4).tolist()} mm voxels and pixdim says "
                f"{np.round(zooms, 4).tolist()} mm; taking pixdim (or give --header affine)."
            )
        affine[:3, :3] *= zooms / norms
    header = image.header
    if not isinstance(header, nib.Nifti1Header):
        return affine
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        notes.append(f"{path} has no position in space (neither sform nor qform); RAS array axes are assumed.")
    elif sform and qform and (apart := _apart_mm(image)) > APART_MM:
        notes.append(
            f"{path} has two affines (sform and qform) that differ by up to {apart:.3g} mm; the sform is used, but "
            "other programs may use the qform."
        )
    unit, scale = UNITS.get(int(header["xyzt_units"]) & 7, ("mm", 1.0))
    if scale != 1:
        notes.append(f"{path} has lengths in {unit}; they are converted to millimetres.")
        affine[:3] *= scale
    return affine


def _apart_mm(image: nib.Nifti1Image) -> float:
    """Largest distance between the corners of an image placed by its two affines."""
    difference = image.get_sform() - image.get_qform()
    index = corners([(0.0, s - 1.0) for s in image.shape[:3]])
    return float(np.linalg.norm(apply_affine(difference, index), axis=1).max())


def _displaces(header: nib.spatialimages.SpatialHeader, dtype: np.dtype) -> bool:
    """Whether vectors are displacements; ITK gives colours the same intent, and ours are called RGB."""
    if int(header.get("intent_code", 0)) not in (DISPLACEMENT, VECTOR):
        return False
    return dtype.kind == "f" and header.get_intent()[2] != COLOUR


def _voxel_size(image: nib.spatialimages.SpatialImage) -> NDArray:
    """The three voxel sizes of the file; nibabel replaces zero and negative ones when it loads an image."""
    header = image.header
    if not isinstance(header, nib.Nifti1Header):
        return np.asarray(header.get_zooms()[:3], float)
    holder = image.file_map.get("header", image.file_map["image"])
    with holder.get_prepare_fileobj("rb") as stream:
        header = type(header).from_fileobj(stream, check=False)
    sizes = np.asarray(header["pixdim"][1:4], float)
    sizes[image.ndim :] = 1.0
    return sizes
