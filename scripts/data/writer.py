# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Writing images and label maps as NIfTI with their original header, as NRRD, MetaImage or pictures."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image as Picture

from ..common.errors import InputError
from ..spatial.fields import VECTOR
from ..spatial.files import check_data_files, itk_name, quiet_itk
from ..spatial.geometry import Geometry
from ..spatial.itk_images import itk_image, write_itk
from .nifti import COLOUR
from .reader import PICTURES, Volume

NIFTI = (".nii", ".nii.gz")
ITK_IMAGES = (".nrrd", ".nhdr", ".mha", ".mhd")
IMAGES = (*NIFTI, *ITK_IMAGES, *PICTURES)
EXTENT_KEYS = ("_Extent", "ReferenceImageExtentOffset")  # of Slicer segmentations; they describe the old grid


def write_volume(path: Path, array: NDArray, grid: Geometry, like: Volume) -> None:
    """Writes an image (C, *grid.shape) in the format that its suffix says.

    The NIfTI header or the NRRD fields (label names) of ``like``, the image it derives from, are kept.

    Raises:
        InputError: a picture of a volume, or of values that are not 8 or 16-bit integers; values that are not finite.
    """
    name = path.name.lower()
    if name.endswith(PICTURES):
        if grid.ndim != 2 or array.dtype not in (np.bool_, np.uint8, np.uint16):
            raise InputError(f"{path.name}: a picture stores whole numbers in a plane; write NIfTI or NRRD instead.")
        save_picture(path, array)
        return
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)  # only pictures have two values
    if name.endswith(NIFTI):
        save_nifti(path, array[0] if len(array) == 1 else np.moveaxis(array, 0, -1), grid, like.header)
    else:
        check_finite(array, path.name)
        image = itk_image(array, grid)
        for key, value in itk_metadata(like.path).items():
            image.SetMetaData(key, value)
        write_itk(path, image)


def check_finite(array: NDArray, name: str) -> None:
    """Raises :class:`InputError` for an image with NaN or infinite values, which must not become a result."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{name} would contain NaN or infinite values, so it was not written; clean the input image.")


def itk_metadata(path: str | Path) -> dict[str, str]:
    """The custom fields of an NRRD or MetaImage file except those that describe its grid."""
    if not str(path).lower().endswith(ITK_IMAGES):
        return {}
    check_data_files(Path(path))
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_name(path))
    with quiet_itk():
        reader.ReadImageInformation()
    keys = [k for k in reader.GetMetaDataKeys() if not k.startswith(("ITK_", "NRRD_")) and not k.endswith(EXTENT_KEYS)]
    return {k: reader.GetMetaData(k) for k in keys}


def save_nifti(path: Path, array: NDArray, grid: Geometry, header: nib.Nifti1Header | None = None) -> None:
    """Writes an array (*grid.shape) or, in colour, (*grid.shape, 3), as ITK does; a 2-D one has one slice.

    Descriptive fields and intent of ``header``, that of the image it derives from, are kept.
    """
    check_finite(array, path.name)
    channels = array.shape[grid.ndim :]
    array = array.reshape(*grid.shape, *[1] * (3 - grid.ndim), *((1, *channels) if channels else ()))
    kept = None
    if header is not None:
        kept = header.copy()
        kept.set_data_dtype(array.dtype)
        kept.set_slope_inter(1, 0)
    image = nib.Nifti1Image(array, grid.affine, kept, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    if channels:
        image.header.set_intent(VECTOR, name=COLOUR)
    image.set_sform(grid.affine, 1)
    image.set_qform(grid.affine, 1)
    nib.save(image, path)


def save_picture(path: Path, array: NDArray) -> None:
    """Writes channels (1 or 3, columns, rows) as a PNG; other types than uint8 and uint16 are stretched to 8 bits."""
    if array.dtype not in (np.uint8, np.uint16):
        array = np.interp(array, (array.min(), array.max()), (0, 255)).round().astype(np.uint8)
    picture = np.ascontiguousarray(array.transpose(2, 1, 0))
    Picture.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(path)


def as_stored(array: NDArray, volume: Volume) -> NDArray:
    """Rounds to the integer type of the file an image came from; other types stay float32."""
    stored = np.dtype(volume.stored)
    if stored.kind not in "iu":
        return array
    limits, result = np.iinfo(stored), np.empty(array.shape, stored)
    for k in range(array.shape[-1]):  # slice by slice: a whole CT has no room for temporary copies
        result[..., k] = np.clip(np.rint(array[..., k]), limits.min, limits.max)
    return result
