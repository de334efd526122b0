# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Arrays with a grid to and from SimpleITK images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .files import itk_name, quiet_itk
from .geometry import LPS, Geometry


def itk_image(channels: NDArray, grid: Geometry, *, vector: bool | None = None) -> sitk.Image:
    """A 3-D SimpleITK image of channels (C, *grid.shape); a 2-D grid gives a single slice.

    ``vector`` stores one vector per voxel; None does so for several channels.
    """
    data = channels.reshape(*channels.shape, *[1] * (3 - grid.ndim)).transpose(3, 2, 1, 0)
    vector = len(channels) > 1 if vector is None else vector
    return placed(sitk.GetImageFromArray(np.ascontiguousarray(data if vector else data[..., 0]), isVector=vector), grid)


def placed(image: sitk.Image, grid: Geometry) -> sitk.Image:
    """The same 3-D image with the origin, spacing and direction of a grid, set in place."""
    lps = LPS @ grid.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).flatten().tolist())
    return image


def channels_of(image: sitk.Image) -> tuple[NDArray, NDArray]:
    """The values (C, X, Y, Z[, T]) of a SimpleITK image of 2 to 4 dimensions, and its (4, 4) RAS affine."""
    n = image.GetDimension()
    array = sitk.GetArrayFromImage(image)
    array = np.moveaxis(array, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array[None]
    array = array.transpose(0, *range(array.ndim - 1, 0, -1))
    affine, m = np.eye(4), min(n, 3)
    direction = np.asarray(image.GetDirection()).reshape(n, n)[:m, :m]
    affine[:m, :m] = direction * np.asarray(image.GetSpacing())[:m]
    affine[:m, 3] = np.asarray(image.GetOrigin())[:m]
    return array.reshape(*array.shape, *[1] * (3 - m)), LPS @ affine


def write_itk(path: str | Path, image: sitk.Image) -> None:
    """Writes an image in the format of its suffix, compressed, and reads it back because ITK ignores a full disk.

    Raises:
        OSError: the file does not contain the image.
    """
    try:
        with quiet_itk():
            sitk.WriteImage(image, itk_name(path), True)
            written = sitk.ReadImage(itk_name(path))
    except RuntimeError as error:
        raise OSError(f"ITK cannot write {Path(path).name}; the disk may be full") from error
    before, after = (sitk.GetArrayViewFromImage(i).ravel() for i in (image, written))
    if not np.array_equal(before, after, equal_nan=before.dtype.kind == "f"):
        raise OSError(f"{Path(path).name} is not complete; the disk may be full")
