# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The headers of a DICOM series, in the order of the slices of its volume, and what derived objects inherit from it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from ...common.errors import InputError
from ...spatial.geometry import LPS, Geometry, reordered, same_grid
from ..dicom import series_files

MANUFACTURER = "SAM registration"
# Patient and general study modules, which every object of the study repeats.
PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight")
STUDY = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
    "StudyDescription",
)  # fmt: skip
MAY_BE_MISSING = ("PatientAge", "PatientSize", "PatientWeight", "StudyDescription")


@dataclass(frozen=True, eq=False)
class Series:
    """A series of single-frame slices.

    Attributes:
        slices: the datasets, in the order of the third axis of ``geometry``.
        geometry: grid of the volume, (columns, rows, slices).
        folder: where it was read.
    """

    slices: tuple[Dataset, ...]
    geometry: Geometry
    folder: str

    @property
    def first(self) -> Dataset:
        return self.slices[0]


def read_series(folder: str | Path) -> Series:
    """Reads the one series of a folder; :class:`InputError` unless it is a stack of evenly spaced single slices."""
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is not a folder with a DICOM series, which DICOM results need.")
    slices = [pydicom.dcmread(f) for f in series_files(Path(folder))]
    if len(slices) < 2:
        raise InputError(f"{folder} has one slice; DICOM results need a stack of slices.")
    first = slices[0]
    across, down = np.asarray(first.ImageOrientationPatient, float).reshape(2, 3)
    rows, columns = (float(v) for v in first.PixelSpacing)
    positions = np.asarray([d.ImagePositionPatient for d in slices], float)
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3] = np.stack([across * columns, down * rows, step, positions[0]], axis=1)
    shape = (int(first.Columns), int(first.Rows), len(slices))
    return Series(tuple(slices), Geometry(shape, LPS @ affine), str(folder))


def on_slices(array: NDArray, grid: Geometry, series: Series) -> NDArray:
    """A volume (..., X, Y, Z) as frames (..., Z, rows, columns) of a series.

    The third axis of its grid may run against that of the series; another grid raises :class:`InputError`.
    """
    if grid.ndim == 3 and not same_grid(grid, series.geometry):
        grid, array = reordered(grid, (0, 1, 2), (1, 1, -1)), array[..., ::-1]
    if grid.ndim != 3 or not same_grid(grid, series.geometry):
        raise InputError(f"A result is not on the grid of the series in {series.folder}; was it made for another one?")
    return np.swapaxes(array, -1, -3)


def new_object(source: Series, sop_class: str, modality: str, number: int, description: str) -> FileDataset:
    """An empty object in the study of a series, with its patient, study and frame of reference, as a new series."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    for key in (*PATIENT, *STUDY):
        if key in source.first or key not in MAY_BE_MISSING:
            setattr(made, key, source.first.get(key, ""))
    if "SpecificCharacterSet" in source.first:
        made.SpecificCharacterSet = source.first.SpecificCharacterSet
    made.Modality, made.SeriesNumber, made.SeriesDescription = modality, number, description
    made.SeriesInstanceUID = generate_uid()
    made.Laterality, made.InstanceNumber = source.first.get("Laterality", ""), 1
    made.FrameOfReferenceUID = source.first.FrameOfReferenceUID
    made.PositionReferenceIndicator = source.first.get("PositionReferenceIndicator", "")
    made.Manufacturer, made.ManufacturerModelName = MANUFACTURER, MANUFACTURER
    made.SoftwareVersions, made.DeviceSerialNumber = software_version(), "0"
    now = datetime.datetime.now()
    made.InstanceCreationDate = made.SeriesDate = made.ContentDate = now.strftime("%Y%m%d")
    made.InstanceCreationTime = made.SeriesTime = made.ContentTime = now.strftime("%H%M%S")
    return made


def software_version() -> str:
    """The version written into objects."""
    try:
        return version("sam-registration")
    except PackageNotFoundError:
        return "0"


def instance_reference(dataset: Dataset) -> Dataset:
    """An item of a sequence of referenced instances."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    return item


def series_reference(series: Series) -> Dataset:
    """An item of a ReferencedSeriesSequence."""
    item = Dataset()
    item.SeriesInstanceUID = series.first.SeriesInstanceUID
    item.ReferencedInstanceSequence = [instance_reference(d) for d in series.slices]
    return item


def code(value: str, meaning: str) -> Dataset:
    """An item of a code sequence, of the scheme DCM."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def reference_both(made: Dataset, moving: Series, fixed: Series) -> None:
    """Adds references to both series of a registration (Common Instance Reference) to an object of the fixed study."""
    same = moving.first.StudyInstanceUID == fixed.first.StudyInstanceUID
    made.ReferencedSeriesSequence = [series_reference(s) for s in ([fixed, moving] if same else [fixed])]
    if not same:
        other = Dataset()
        other.StudyInstanceUID = moving.first.StudyInstanceUID
        other.ReferencedSeriesSequence = [series_reference(moving)]
        made.StudiesContainingOtherReferencedInstancesSequence = [other]


def decimal(values: Sequence[float]) -> list[str]:
    """Numbers as decimal strings of at most 16 characters."""
    return [str(pydicom.valuerep.DSfloat(float(v), auto_format=True)) for v in values]
