# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Reading one image of any common format with its geometry; images that cannot be registered are refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from ..common.errors import InputError
from ..common.files import existing
from ..spatial.files import check_size, quiet_itk, read_itk
from ..spatial.geometry import LPS, Geometry, same_grid, told_apart, usable
from ..spatial.itk_images import channels_of
from .dicom import is_dicom, read_dicom
from .nifti import read_nifti

logger = logging.getLogger(__name__)

NIFTI = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
SKEW = 0.01  # cosine of two axes; less is rounding
HEADER_POLICIES = ("auto", "affine", "pixdim")


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or label map with its geometry.

    Attributes:
        array: (C, X, Y[, Z]) in the stored type; C is 1, or 3 for colour.
        geometry: its grid.
        path: of its file.
        header: the NIfTI header, kept for writing label maps; None for other formats.
        stored: type of the values in the file, in which results are written too.
        warnings: sentences about oddities of the file, logged when it is read.
    """

    array: NDArray
    geometry: Geometry
    path: str
    header: nib.Nifti1Header | None = None
    stored: np.dtype | type = np.float32
    warnings: tuple[str, ...] = ()

    @property
    def is_picture(self) -> bool:
        return self.path.lower().endswith(PICTURES)


def read_volume(path: str | Path, *, frame: int | None = None, header: str = "auto", label: bool = False) -> Volume:
    """Reads NIfTI, NRRD, MetaImage, PNG/JPEG/TIFF/BMP, or a folder with one DICOM series.

    Args:
        path: file, or DICOM folder; ``~`` is the home folder.
        frame: time frame of a 4-D series, from 0.
        header: which to use when a NIfTI affine contradicts the voxel size: "auto" uses the voxel size and warns,
            "pixdim" uses it silently, "affine" uses the affine.
        label: the file is a label map: a DICOM Segmentation object is accepted, and so is a single frame where
            ``frame`` refers to the series of the image.

    Returns:
        The image; one with a single slice is 2-D. Pictures are placed as ITK reads them: columns to the left, rows to
        the posterior, 1 mm pixels.

    Raises:
        InputError: the file is missing, unreadable, too large, 4-D without ``frame``, neither grey nor colour, or has
            an impossible voxel size.
    """
    if header not in HEADER_POLICIES:
        raise InputError(f"header must be one of {', '.join(HEADER_POLICIES)}, got {header!r}.")
    path = existing(path, "an image file or of a DICOM folder", folder=True)
    name, notes = path.name.lower(), []
    nifti: nib.Nifti1Header | None = None

    pick = partial(_frame, path, frame, label)
    if is_dicom(path):
        array, affine = read_dicom(path, label)
    elif name.endswith(NIFTI):
        array, affine, nifti = read_nifti(path, header, pick, notes)
    elif name.endswith(PICTURES):
        array, affine = _read_picture(path, notes)
    else:
        array, affine = channels_of(read_itk(path))
    if nifti is None and not name.endswith(NIFTI):
        chosen = pick(array.shape[4] if array.ndim == 5 else None)
        array = array if chosen is None else array[..., chosen]
    return checked_volume(array, affine, str(path), nifti, notes)


def checked_volume(
    array: NDArray, affine: NDArray, path: str, nifti: nib.Nifti1Header | None = None, notes: Sequence[str] = ()
) -> Volume:
    """An image (C, X, Y[, Z]) from memory or from a file, refused where it cannot be registered.

    Args:
        array: (C, X, Y[, Z]).
        affine: (4, 4) voxel index to RAS mm.
        path: of its file, or its name in messages.
        nifti: its NIfTI header.
        notes: sentences about oddities of the image.
    """
    notes = list(notes)
    if len(array) not in (1, 3, 4):
        raise InputError(f"{path} has {len(array)} values per voxel; save one, or RGB or RGBA, as a separate file.")
    array = array[:3]  # without alpha
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not usable(affine):
        place = f"voxel size {np.round(spacing, 6).tolist()} mm at {affine[:3, 3].tolist()}"
        raise InputError(f"{path} has the unusable {place}; correct its header.")
    if array.shape[-1] == 1:
        array = array[..., 0]
    if min(array.shape[1:]) < 2:
        raise InputError(
            f"{path} has the size {array.shape[1:]}; an image needs at least 2 pixels along each axis, and in a single "
            "slice the last axis must be the one of length 1."
        )
    axes = affine[:3, :3] / spacing
    skew = np.abs(axes.T @ axes - np.eye(3)).max()
    if skew > SKEW:
        notes.append(
            f"{path}: its axes meet at {np.rad2deg(np.arccos(skew)):.1f} degrees, which ITK and Slicer cannot show; "
            "resample it to a right-angled grid."
        )
    for sentence in notes:
        logger.warning(sentence)
    return Volume(array, Geometry(array.shape[1:], affine), path, nifti, array.dtype, tuple(notes))


def check_grid(label: Volume, image: Volume) -> None:
    """Raises :class:`InputError` for a label map that is not on the grid of its image."""
    if not same_grid(label.geometry, image.geometry):
        own, wanted = told_apart(label.geometry, image.geometry)
        raise InputError(
            f"{label.path} is on another grid ({own}) than its image {image.path} ({wanted}); resample it first."
        )


def check_intensities(volume: Volume, fill_nan: float | None = None) -> NDArray:
    """The image as float32, checked to contain something to register; ``fill_nan`` replaces NaN and infinite voxels.

    Raises:
        InputError: NaN or infinite values, complex ones, or the same value everywhere.
    """
    if np.iscomplexobj(volume.array):
        raise InputError(f"{volume.path} contains complex numbers; save the magnitude or the phase as a separate file.")
    with np.errstate(over="ignore"):  # values that float32 cannot hold become infinite and are refused below
        array = volume.array.astype(np.float32)
    bad = ~np.isfinite(array)
    if bad.any():
        if fill_nan is None:
            count = int(bad.sum())
            raise InputError(f"{volume.path} has {count} NaN or infinite voxels; clean it, or add --fill_nan 0.")
        array[bad] = fill_nan
    if array.min() == array.max():
        raise InputError(f"{volume.path} has the value {array.min():g} everywhere; there is nothing to register.")
    return array


def _frame(path: Path, frame: int | None, label: bool, count: int | None) -> int | None:
    """The frame to take from a series of ``count`` frames; None for an image that is not a series."""
    if frame is not None and not isinstance(frame, Integral):
        raise InputError(f"The frame of {path} must be a whole number from 0, got {frame!r}.")
    if count is None:
        if frame not in (None, 0) and not label:
            raise InputError(f"{path} is a single image and has no frame {frame}; leave the frame option out.")
        return None
    if count == 1:
        return 0
    if frame is None:
        raise InputError(
            f"{path} is a 4-D series of the frames 0 to {count - 1}; choose one with --moving_frame or --fixed_frame "
            "(pairs), or with --frame (warp and masks)."
        )
    if not 0 <= frame < count:
        raise InputError(f"{path} has frames 0 to {count - 1}, so there is no frame {frame}.")
    return int(frame)


def _read_picture(path: Path, notes: list[str]) -> tuple[NDArray, NDArray]:
    try:
        with quiet_itk(), Picture.open(path) as picture:
            check_size(path, (*picture.size, len(picture.getbands())))
            pages = getattr(picture, "n_frames", 1)
            if picture.mode in ("P", "PA", "RGBA", "CMYK", "YCbCr", "LA"):
                picture = picture.convert("RGB")
            elif picture.mode == "1":
                picture = picture.convert("L")
            array = np.asarray(picture)
            if array.ndim not in (2, 3):
                raise ValueError("no pixels")
    except InputError:
        raise
    except Exception as error:  # a damaged TIFF makes Pillow raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read as a picture ({reason}).") from error
    if pages > 1:
        notes.append(f"{path} has {pages} pages; only the first is used.")
    array = array[..., None] if array.ndim == 2 else array[..., :3]
    if array.shape[-1] == 3 and (array == array[..., :1]).all():
        array = array[..., :1]
    return np.ascontiguousarray(array.transpose(2, 1, 0))[..., None], LPS.copy()
