# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The moved image as a derived series on the slices of the fixed one, with references to both sources."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from ...spatial.geometry import Geometry
from .series import Series, code, decimal, instance_reference, new_object, on_slices

PROCESSED = ("121322", "Source Image for Image Processing Operation")
SAME_PLACE = ("121311", "Localizer")  # the fixed slice in the same position
PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
ACQUISITION_GROUP = 0x0018  # copied from the moving image; other groups describe the study, the position, the pixels
WINDOW = ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation")


def write_moved(folder: str | Path, moved: NDArray, grid: Geometry, moving: Series, fixed: Series) -> list[Path]:
    """Writes the moved image (X, Y, Z) as a series, one file for each slice of the fixed series.

    Raises:
        InputError: ``grid``, that of the image, is not the grid of the fixed series.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    frames, slope, intercept = _stored(on_slices(moved, grid, fixed), moving.first.get("Modality"))
    source = moving.first
    description = f"Moved: {source.get('SeriesDescription', '')}"[:64]
    base = new_object(fixed, source.SOPClassUID, source.Modality, 9002, description)
    base.PatientPosition = fixed.first.get("PatientPosition", "")
    for element in source:
        if element.tag.group == ACQUISITION_GROUP and element.keyword not in (*PLACE, "PatientPosition"):
            base.add(copy.deepcopy(element))
    base.ImageType = ["DERIVED", "SECONDARY", *list(source.get("ImageType", []))[2:3]]
    base.AcquisitionNumber = source.get("AcquisitionNumber", "")
    base.DerivationDescription = "Registered to another series and resampled"
    base.DerivationCodeSequence = [code("113085", "Spatial resampling")]
    paths = []
    for k, (frame, slice_) in enumerate(zip(frames, fixed.slices)):
        made = copy.deepcopy(base)
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        made.InstanceNumber = k + 1
        for key in PLACE:
            if key in slice_:
                setattr(made, key, slice_[key].value)
        made.ImagePositionPatient = decimal(np.asarray(slice_.ImagePositionPatient, float))
        _pixels(made, frame, slope, intercept, source)
        made.SourceImageSequence = [_reference(d, *PROCESSED) for d in moving.slices]
        made.ReferencedImageSequence = [_reference(slice_, *SAME_PLACE)]
        path = folder / f"moved_{k + 1:04d}.dcm"
        made.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _reference(dataset: Dataset, value: str, meaning: str) -> Dataset:
    item = instance_reference(dataset)
    item.PurposeOfReferenceCodeSequence = [code(value, meaning)]
    return item


def _stored(frames: NDArray, modality: str | None) -> tuple[NDArray, float, float]:
    """Frames in 16 bits, and the slope and intercept that restore the intensities."""
    whole = frames.dtype.kind in "iu" or bool(np.all(frames == np.rint(frames)))
    low, high = float(frames.min()), float(frames.max())
    if whole and low >= 0 and high < 2**16:
        return frames.astype(np.uint16), 1.0, 0.0
    if whole and low >= -(2**15) and high < 2**15:
        return frames.astype(np.int16), 1.0, 0.0
    slope = max(high - low, 1e-6) / (2**16 - 1)
    return np.rint((frames - low) / slope).astype(np.uint16), slope, low


def _pixels(made: Dataset, frame: NDArray, slope: float, intercept: float, source: Dataset) -> None:
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = frame.shape
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, int(frame.dtype.kind == "i")
    if made.Modality == "CT" or (slope, intercept) != (1.0, 0.0):
        made.RescaleSlope, made.RescaleIntercept = decimal([slope, intercept])
        made.RescaleType = "HU" if made.Modality == "CT" else "US"
    for key in WINDOW:
        if key in source:
            setattr(made, key, source[key].value)
    made.PixelData = np.ascontiguousarray(frame).tobytes()
