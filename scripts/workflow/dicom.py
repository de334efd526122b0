# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The results of a registration of two DICOM series, as DICOM objects beside the files of the result folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from ..common.errors import InputError
from ..data.dicom_objects.deformable import write_deformable
from ..data.dicom_objects.moved import write_moved
from ..data.dicom_objects.series import Series, read_series
from ..data.reader import read_volume
from ..data.segmentations import read_segmentation
from ..spatial.fields import read_field
from .guard import DICOM, own_dicom

ROLES = ("moving", "fixed")


def check_dicom(moving: str | Path, fixed: str | Path) -> tuple[Series, Series]:
    """Both series, if DICOM results can be written for them; :class:`InputError` says why not."""
    series = read_series(moving), read_series(fixed)
    patients = [s.first.get("PatientID", "") for s in series]
    if patients[0] != patients[1]:
        raise InputError(
            f"The series are of the patients {patients[0]!r} and {patients[1]!r}; DICOM results mix both images in one "
            "study, so they are written for a single patient only."
        )
    for s in series:
        if "FrameOfReferenceUID" not in s.first:
            raise InputError(f"{s.folder} has no frame of reference, which a registration object needs.")
    return series


def check_dicom_folder(output_dir: str | Path) -> Path:
    """The folder for the DICOM objects; :class:`InputError` if it contains something else, which must stay."""
    folder = Path(output_dir) / DICOM
    if folder.exists() and not own_dicom(folder.parent) and any(folder.iterdir()):
        raise InputError(f"{folder} exists and contains no results; move it away, or give another --output_dir.")
    return folder


def write_dicom(output_dir: str | Path, moving: str | Path, fixed: str | Path) -> list[str]:
    """Writes what a result folder contains as DICOM objects into its folder ``dicom``; returns their relative paths.

    The objects of an earlier result are deleted when the new result is put in place, so they never lie beside it.

    ``moved/`` is the moved image as a derived series, ``moving_regions.dcm`` and ``fixed_regions.dcm`` are the paired
    regions as Segmentation objects, and ``registration.dcm`` is the field as a Deformable Spatial Registration object.
    ``moving`` and ``fixed`` are the folders of the series.
    """
    # highdicom takes a second to import, and needs a newer pydicom than MONAI Label can have.
    from ..data.dicom_objects.segmentation import tracking_uids, write_segmentation_object

    output_dir, target = Path(output_dir), check_dicom_folder(output_dir)
    series = dict(zip(ROLES, check_dicom(moving, fixed)))
    pairs = json.loads((output_dir / "correspondence.json").read_text(encoding="utf-8"))["pairs"]
    try:
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=output_dir) as part:
            made = Path(part) / DICOM
            made.mkdir()
            tracking = tracking_uids(len(pairs))
            for number, role in enumerate(ROLES, start=9003):
                path = output_dir / f"{role}_rois.seg.nrrd"
                if pairs and path.exists():
                    name = made / f"{role}_regions.dcm"
                    regions = read_segmentation(path)
                    write_segmentation_object(name, regions, series[role], tracking, number, f"Regions, {role} image")
            if (output_dir / "ddf.nii.gz").exists():
                u_lps, grid = read_field(output_dir / "ddf.nii.gz")
                write_deformable(made / "registration.dcm", u_lps, grid, **series)
                moved = read_volume(output_dir / "moved.nii.gz")
                write_moved(made / "moved", moved.array[0], moved.geometry, **series)
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
    except OSError as error:
        reason = error
        while reason.strerror is None and isinstance(reason.__cause__, OSError):  # pydicom's errors show a traceback
            reason = reason.__cause__
        raise InputError(
            f"The DICOM results could not be written to {output_dir} ({reason.strerror or reason})."
        ) from error
    return sorted(p.relative_to(output_dir).as_posix() for p in target.rglob("*.dcm"))
