# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Reading one image of any common format with its geometry, and refusing what cannot be registered, in one sentence."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import UnidentifiedImageError

from ..common.errors import InputError
from ..common.files import there
from ..spatial.fields import DISPLACEMENT, VECTOR
from ..spatial.files import quiet_itk, readable
from ..spatial.geometry import LPS, Geometry, usable

logger = logging.getLogger(__name__)

NIFTI = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
SKEW = 0.01  # cosine of two axes; less is rounding
COLOUR = "RGB"  # name of the intent of a NIfTI file in colour
HEADER_POLICIES = ("auto", "affine", "pixdim")


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or label map with its geometry.

    Attributes:
        array: (C, X, Y[, Z]) in the stored type; C is 1, or 3 for colour.
        geometry: its grid.
        path: where it came from.
        header: the NIfTI header, kept for writing label maps; None for other formats.
        stored: type of the values in the file, so that results can be written alike.
    """

    array: NDArray
    geometry: Geometry
    path: str
    header: nib.Nifti1Header | None = None
    stored: np.dtype | type = np.float32

    @property
    def is_picture(self) -> bool:
        return self.path.lower().endswith(PICTURES)


def read_volume(path: str | Path, *, frame: int | None = None, header: str = "auto", single: bool = False) -> Volume:
    """Reads NIfTI, NRRD, MetaImage, PNG/JPEG/TIFF/BMP, or a folder with one DICOM series.

    Args:
        path: file, or DICOM folder.
        frame: which time frame of a 4-D series, from 0.
        header: what to believe when a NIfTI affine contradicts its voxel size: "auto" warns and takes the voxel size,
            "pixdim" takes it silently, "affine" takes the affine.
        single: an image that is no series is taken whatever ``frame`` says, as the label map of that frame.

    Returns:
        The image; one with a single slice is 2-D. Pictures lie as ITK reads them: columns to the left, rows to the
        posterior, 1 mm pixels.

    Raises:
        InputError: the file is missing, unreadable, 4-D without ``frame``, neither grey nor colour, or has an
            impossible voxel size.
    """
    if header not in HEADER_POLICIES:
        raise InputError(f"header must be one of {', '.join(HEADER_POLICIES)}, got {header!r}.")
    path = Path(path)
    if not there(path):
        raise InputError(f"{path} does not exist; give the path of an image file or of a DICOM folder.")
    name = path.name.lower()
    if path.is_dir():
        array, affine, nifti = *_read_dicom(path), None
    elif name.endswith(NIFTI):
        array, affine, nifti = _read_nifti(path, header)
    elif name.endswith(PICTURES):
        array, affine, nifti = *_read_picture(path), None
    else:
        array, affine, nifti = *_read_itk(path, str(path)), None
    if len(array) not in (1, 3, 4):
        raise InputError(
            f"{path} has {len(array)} values a voxel, and an image has 1, or 3 or 4 (RGB, RGBA) in colour; write the "
            "one to use as a file of its own."
        )
    array = _one_frame(array[:3], None if single and array.ndim == 4 else frame, path)  # without alpha
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not usable(affine):
        raise InputError(
            f"{path} has the voxel size {np.round(spacing, 6).tolist()} mm at {affine[:3, 3].tolist()}, which is not "
            "usable; correct its header."
        )
    if array.shape[-1] == 1:
        array = array[..., 0]
    if min(array.shape[1:]) < 2:
        raise InputError(
            f"{path} has the size {array.shape[1:]}; an image needs at least 2 pixels along each axis, and of a single "
            "slice the last axis must be the one of length 1."
        )
    axes = affine[:3, :3] / spacing
    skew = np.abs(axes.T @ axes - np.eye(3)).max()
    if skew > SKEW:
        logger.warning(
            "%s: its axes meet at %.1f degrees, which ITK and Slicer cannot show; resample it on a right-angled grid.",
            path,
            np.rad2deg(np.arccos(skew)),
        )
    return Volume(array, Geometry(array.shape[1:], affine), str(path), nifti, array.dtype)


def check_intensities(volume: Volume, fill_nan: float | None = None) -> NDArray:
    """The image as float32, once it is sure that there is something to register.

    Args:
        volume: an image.
        fill_nan: value for NaN and infinite voxels; None refuses them.

    Raises:
        InputError: NaN or infinite values, complex ones, or the same value everywhere.
    """
    if np.iscomplexobj(volume.array):
        raise InputError(f"{volume.path} holds complex numbers; save its magnitude, or what else is to be registered.")
    array = volume.array.astype(np.float32)
    bad = ~np.isfinite(array)
    if bad.any():
        if fill_nan is None:
            raise InputError(
                f"{volume.path} has {int(bad.sum())} NaN or infinite voxels; clean it, or replace them with "
                "--fill_nan 0."
            )
        array[bad] = fill_nan
    if array.min() == array.max():
        raise InputError(f"{volume.path} has the value {array.min():g} everywhere; there is nothing to register.")
    return array


def _read_nifti(path: Path, policy: str):
    with readable(path, "NIfTI"):
        image = nib.load(path)
        array = np.asanyarray(image.dataobj)
    if array.dtype.names:  # RGB24
        array = array.reshape(*array.shape, *[1] * (4 - array.ndim))
        array = np.stack([array[c] for c in array.dtype.names[:3]], axis=-1)
    if array.ndim == 5 and array.shape[3:] == (1, 3) and _displaces(image.header, array.dtype):
        raise InputError(f"{path} is a displacement field, not an image; give the image it belongs to.")
    zooms = _voxel_size(image)
    if np.any(zooms <= 0) or not np.all(np.isfinite(zooms)):
        raise InputError(f"{path} has the voxel size {zooms.tolist()} mm, which is not usable; correct its header.")
    affine = np.asarray(image.affine, float).copy()
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    if policy != "affine" and np.all(norms > 1e-6) and not np.allclose(norms, zooms, rtol=0.01):
        if policy == "auto":
            logger.warning(
                "%s: the affine says %s mm voxels and pixdim says %s mm; taking pixdim (or give --header affine)",
                path,
                np.round(norms, 4).tolist(),
                np.round(zooms, 4).tolist(),
            )
        affine[:3, :3] *= zooms / norms
    array = array.reshape(*array.shape, *[1] * max(0, 3 - array.ndim))
    header = image.header if isinstance(image.header, nib.Nifti1Header) else None
    if array.ndim == 5 and array.shape[3:] == (1, 3):
        return np.moveaxis(array[:, :, :, 0], -1, 0), affine, header
    if array.ndim > 4 and np.prod(array.shape[4:]) == 1:
        array = array.reshape(array.shape[:4])
    return array[None], affine, header


def _displaces(header: nib.spatialimages.SpatialHeader, dtype: np.dtype) -> bool:
    """Whether vectors are displacements: ITK gives colours the same intent, and ours have the name RGB."""
    if int(header.get("intent_code", 0)) not in (DISPLACEMENT, VECTOR):
        return False
    return dtype.kind == "f" and header.get_intent()[2] != COLOUR


def _voxel_size(image: nib.spatialimages.SpatialImage) -> NDArray:
    """The three voxel sizes as they stand in the file: nibabel replaces zero and negative ones while loading."""
    header = image.header
    if isinstance(header, nib.Nifti1Header):
        holder = image.file_map.get("header", image.file_map["image"])
        stream = holder.get_prepare_fileobj("rb")
        with stream:
            header = type(header).from_fileobj(stream, check=False)
        sizes = np.asarray(header["pixdim"][1:4], float)
        sizes[image.ndim :] = 1.0
        return sizes
    return np.asarray(header.get_zooms()[:3], float)


def _read_picture(path: Path):
    try:
        with Picture.open(path) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                logger.warning("%s has %d pages; the first one is taken.", path, picture.n_frames)
            if picture.mode in ("P", "PA", "RGBA", "CMYK", "YCbCr", "LA"):
                picture = picture.convert("RGB")
            elif picture.mode == "1":
                picture = picture.convert("L")
            array = np.asarray(picture)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Picture.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture ({_first_line(error)}).") from error
    array = array[..., None] if array.ndim == 2 else array[..., :3]
    if (
        array.shape[-1] == 3
        and np.array_equal(array[..., 0], array[..., 1])
        and np.array_equal(array[..., 0], array[..., 2])
    ):
        array = array[..., :1]
    return np.ascontiguousarray(array.transpose(2, 1, 0))[..., None], LPS.copy()


def _read_dicom(folder: Path):
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise InputError(f"{folder} is a folder without a DICOM series; give an image file or a DICOM folder.")
    if len(series) > 1:
        raise InputError(
            f"{folder} holds {len(series)} DICOM series ({', '.join(series)}); give a folder with one series."
        )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]))
    return _from_sitk(_execute(reader.Execute, folder))


def _read_itk(path: Path, name: str):
    return _from_sitk(_execute(lambda: sitk.ReadImage(name), path))


def _execute(read, path: Path) -> sitk.Image:
    try:
        with quiet_itk():
            return read()
    except (RuntimeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not an image that can be read (NIfTI, NRRD, MHA, PNG, JPEG, DICOM folder)."
        ) from error


def _from_sitk(image: sitk.Image):
    """(C, X, Y, Z[, T]) and the RAS affine of a SimpleITK image."""
    n = image.GetDimension()
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    else:
        array = array[None]
    array = array.transpose(0, *range(array.ndim - 1, 0, -1))
    affine = np.eye(4)
    m = min(n, 3)
    direction = np.asarray(image.GetDirection()).reshape(n, n)[:m, :m]
    affine[:m, :m] = direction * np.asarray(image.GetSpacing())[:m]
    affine[:m, 3] = np.asarray(image.GetOrigin())[:m]
    return array.reshape(*array.shape, *[1] * (3 - m)), LPS @ affine


def _one_frame(array: NDArray, frame: int | None, path: Path) -> NDArray:
    """(C, X, Y, Z) of a series (C, X, Y, Z, T)."""
    if frame is not None and not isinstance(frame, Integral):
        raise InputError(f"The frame of {path} must be a whole number from 0, got {frame!r}.")
    if array.ndim > 5:
        raise InputError(
            f"{path} has the shape {array.shape[1:]}; images of more than 4 dimensions cannot be registered."
        )
    if array.ndim == 4:
        if frame not in (None, 0):
            raise InputError(f"{path} is a single image and has no frame {frame}; leave the frame option out.")
        return array
    count = array.shape[-1]
    if count == 1:
        return array[..., 0]
    if frame is None:
        raise InputError(
            f"{path} is a 4-D series of the frames 0 to {count - 1}; choose one: --moving_frame or --fixed_frame "
            "of a pair, --frame of warp and masks."
        )
    if not 0 <= frame < count:
        raise InputError(f"{path} has frames 0 to {count - 1}, and frame {frame} was asked for.")
    return array[..., frame]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
