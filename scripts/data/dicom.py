# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Reads a DICOM series as one volume of evenly spaced parallel slices, or refuses it and names the faulty file.

ITK stacks all files of a folder. A missing slice, a second phase or a scout would deform the anatomy silently, so
every header is checked before ITK reads the voxels (DICOM PS3.3 C.7.6.2, Image Plane Module).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from ..common.errors import InputError
from ..spatial.files import check_size, itk_name, quiet_itk
from ..spatial.itk_images import channels_of
from .dicom_objects.label_map import read_label_map

TAGS = [
    "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "Rows", "Columns", "NumberOfFrames",
    "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID",
]  # fmt: skip
PLACE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}  # numbers in each
ANGLE = 1e-3  # of direction cosines
UNEVEN = 0.05  # share of the slice distance by which a gap may differ
DRIFT = 0.5  # pixels by which slices may shift in their plane over the whole stack
NOT_IMAGES = {"SEG": "a segmentation", "RTSTRUCT": "a set of contours", "RTDOSE": "a dose", "SR": "a report"}


def is_dicom(path: Path) -> bool:
    """Whether a path is a folder, or a file with the DICOM preamble."""
    if not path.is_file():
        return path.is_dir()
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_dicom(path: Path, label: bool = False) -> tuple[NDArray, NDArray]:
    """The values (C, X, Y, Z) and the (4, 4) RAS affine of a folder with one DICOM series, or of a file with one slice.

    Other files in the folder are ignored; a ``label`` may also be a Segmentation object. Raises :class:`InputError`,
    which names the file, unless there is exactly one stack of evenly spaced parallel slices.
    """
    if label and (found := _segmentation(path)) is not None:
        file, header = found
        check_size(file, [int(header.get(tag) or 1) for tag in ("Rows", "Columns", "NumberOfFrames")])
        return read_label_map(file)
    ordered = series_files(path)
    first = _header(ordered[0])
    check_size(path, (int(first.Rows), int(first.Columns), len(ordered)))
    reader = sitk.ImageSeriesReader()
    try:
        with quiet_itk():
            reader.SetFileNames([itk_name(p) for p in ordered])
            return channels_of(reader.Execute())
    except RuntimeError as error:
        raise InputError(f"{path} has DICOM files with damaged or unknown pixel data; convert it to NIfTI.") from error


def _segmentation(path: Path) -> tuple[Path, Dataset] | None:
    """The Segmentation object that a file is, or a folder contains alone."""
    files = [p for p in path.iterdir() if p.is_file()] if path.is_dir() else [path]
    header = _header(files[0]) if len(files) == 1 else None
    return (files[0], header) if header is not None and header.get("Modality") == "SEG" else None


def series_files(path: Path) -> list[Path]:
    """The files of the one series of a folder, or the one file, in the order of their slices; all are checked."""
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    headers = [(p, h) for p in files if (h := _header(p)) is not None and p.name.upper() != "DICOMDIR"]
    if not headers:
        raise InputError(f"{path} is a folder without a DICOM series; give an image file or a DICOM folder.")
    for file, header in headers:
        _check_kind(file, header)
    series = sorted({str(h.get("SeriesInstanceUID", "")) for _, h in headers})
    if len(series) > 1:
        raise InputError(f"{path} contains {len(series)} DICOM series ({', '.join(series)}); give a folder with one.")
    return _stack(path, headers) if len(headers) > 1 else [headers[0][0]]


def _header(path: Path) -> Dataset | None:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
    except InvalidDicomError:
        return None
    except Exception as error:  # a damaged header makes pydicom raise nearly anything
        raise InputError(f"{path} is a damaged DICOM file; replace it or remove it from the folder.") from error


def _check_kind(path: Path, header: Dataset) -> None:
    kind = str(header.get("Modality", ""))
    if kind in NOT_IMAGES or not header.get("Rows"):
        what = NOT_IMAGES.get(kind, "an object without pixels")
        raise InputError(
            f"{path} is {what} ({kind or 'no modality'}), not an image; segmentations can be labels, and other "
            "objects must be converted, for example with 3D Slicer."
        )
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise InputError(f"{path} is a multi-frame DICOM file; convert it to NIfTI, for example with dcm2niix.")


def _stack(folder: Path, headers: list[tuple[Path, Dataset]]) -> list[Path]:
    """The files in the order of their slices."""
    for path, header in headers:
        for tag, length in PLACE.items():
            values = np.ravel(header[tag].value) if header.get(tag) is not None else ()
            if len(values) != length or not np.isfinite(values.astype(float)).all():
                raise InputError(f"{path} has no usable {tag} to place it in the volume; remove it from the folder.")
    for tag, tolerance in (
        ("ImageOrientationPatient", ANGLE), ("PixelSpacing", 1e-4), ("Rows", 0), ("Columns", 0),
        ("FrameOfReferenceUID", 0), ("ImageType", 0),
    ):  # fmt: skip
        _check_same(headers, tag, tolerance)
    rows, columns = np.asarray(headers[0][1].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(rows, columns)
    positions = np.array([h.ImagePositionPatient for _, h in headers], float)
    order = np.argsort(positions @ normal, kind="stable")
    paths, positions = [headers[k][0] for k in order], positions[order]
    gaps = np.diff(positions @ normal)
    step = float(np.median(gaps[gaps > 1e-3])) if (gaps > 1e-3).any() else 0.0
    same = np.flatnonzero(gaps < max(1e-3, 0.01 * step))
    if len(same):
        first, second = paths[same[0]].name, paths[same[0] + 1].name
        hint = "; the folder may contain several phases or echoes, so select one of them" if len(same) > 1 else ""
        raise InputError(f"{folder} contains the same slice twice, in {first} and {second}{hint}.")
    uneven = np.flatnonzero(np.abs(gaps - step) > UNEVEN * step)
    if len(uneven):
        k = uneven[np.argmax(gaps[uneven])]
        raise InputError(
            f"{folder} has a gap of {gaps[k]:.4g} mm after {paths[k].name}, while slices are {step:.4g} mm apart; a "
            "slice may be missing, so complete the series or resample it to even slices."
        )
    drift = positions - positions[0] - np.outer(positions @ normal - positions[0] @ normal, normal)
    pixel = float(min(headers[0][1].PixelSpacing))
    if np.linalg.norm(drift, axis=1).max() > DRIFT * pixel:
        angle = np.rad2deg(np.arctan2(np.linalg.norm(drift[-1]), np.ptp(positions @ normal)))
        raise InputError(
            f"{folder} has slices that are shifted in their plane, as by a gantry tilt of {angle:.1f} degrees, last in "
            f"{paths[-1].name}; resample it to a right-angled grid, for example with 3D Slicer or dcm2niix."
        )
    return paths


def _check_same(headers: list[tuple[Path, Dataset]], tag: str, tolerance: float) -> None:
    """Raises :class:`InputError` for a slice whose value of a tag differs from that of most slices."""
    values: list[Any] = []
    for _, header in headers:
        value = header.get(tag)
        if tolerance:
            value = tuple(np.round(np.asarray(value, float) / tolerance).astype(int).tolist())
        elif tag == "ImageType":
            value = "LOCALIZER" in [str(v).upper() for v in value or ()]
        values.append(value)
    usual = Counter(values).most_common(1)[0][0]
    for (path, header), value in zip(headers, values):
        close = tolerance and np.abs(np.subtract(value, usual)).max() <= 1
        if value != usual and not close:
            text = header.get(tag)
            raise InputError(f"{path} has a different {tag} ({text}) from the other slices; remove it from the folder.")
