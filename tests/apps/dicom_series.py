"""Writes a volume as a DICOM series of single slices, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_series(
    folder: Path,
    array: np.ndarray,
    affine_ras: np.ndarray,
    *,
    study: str,
    frame: str,
    description: str = "series",
    modality: str = "MR",
    number: int = 1,
    patient: str = "p001",
) -> Path:
    """One file per slice, in an order that is not that of the slices."""
    folder.mkdir(parents=True)
    affine = LPS @ affine_ras
    step = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / step
    series = generate_uid()
    sop_class = {"MR": MRImageStorage, "CT": CTImageStorage}[modality]
    for k in range(array.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Test^Patient", patient, "", "O"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20260101"
        ds.StudyTime = ds.SeriesTime = ds.ContentTime = "120000"
        ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName, ds.PositionReferenceIndicator = "1", "", "", ""
        ds.Modality, ds.Manufacturer, ds.SeriesDescription, ds.StudyDescription = modality, "x", description, "heart"
        ds.SeriesNumber, ds.InstanceNumber, ds.ImageType = number, k + 1, ["ORIGINAL", "PRIMARY", "OTHER"]
        ds.AcquisitionNumber = 1
        if modality == "MR":
            ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "NONE", "", "2D"
            ds.EchoTime, ds.EchoTrainLength, ds.RepetitionTime = 1, 1, 1
        else:
            ds.KVP, ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 120, 0, 1, "HU"
        ds.Rows, ds.Columns = array.shape[1], array.shape[0]
        ds.PixelSpacing = [round(float(step[1]), 6), round(float(step[0]), 6)]
        ds.SliceThickness = ds.SpacingBetweenSlices = round(float(step[2]), 6)
        ds.ImageOrientationPatient = [round(float(v), 8) for v in (*axes[:, 0], *axes[:, 1])]
        ds.ImagePositionPatient = [round(float(v), 6) for v in (affine @ [0, 0, k, 1])[:3]]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, int(modality == "CT")
        pixels = array[:, :, k].T.astype(np.int16 if modality == "CT" else np.uint16)
        ds.PixelData = np.ascontiguousarray(pixels).tobytes()
        ds.save_as(folder / f"{(k * 7) % array.shape[2]:03d}_{k}.dcm", enforce_file_format=True)
    return folder


def write_pair(folder: Path, pair, **options) -> tuple[Path, Path]:
    """A phantom pair as two series of one study and one frame of reference."""
    shared = {"study": generate_uid(), "frame": generate_uid(), **options}
    return tuple(
        write_series(
            folder / role,
            np.clip(np.rint(getattr(pair, role)), -1000 if options.get("modality") == "CT" else 0, 30000),
            getattr(pair, f"{role}_affine"),
            description=f"{role} series",
            number=k,
            **shared,
        )
        for k, role in enumerate(("moving", "fixed"), start=1)
    )
