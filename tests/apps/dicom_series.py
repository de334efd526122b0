"""Writes a volume as a DICOM series of single slices, and reads registration objects, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from scripts.spatial.geometry import LPS, Geometry


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
    """One file per slice, in another order than the slices."""
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


def read_deformable(dataset: Dataset) -> tuple[np.ndarray, Geometry]:
    """The field (X, Y, Z, 3), LPS mm, of a Deformable Spatial Registration object with one grid, and this grid."""
    items = [i for i in dataset.DeformableRegistrationSequence if "DeformableRegistrationGridSequence" in i]
    if len(items) != 1 or "PreDeformationMatrixRegistrationSequence" in items[0]:
        raise ValueError("The registration object needs one deformation grid and no matrices.")
    field = items[0].DeformableRegistrationGridSequence[0]
    shape = tuple(int(n) for n in field.GridDimensions)
    u = np.frombuffer(field.VectorGridData, "<f4").reshape(*shape[::-1], 3).transpose(2, 1, 0, 3)
    row, column = np.asarray(field.ImageOrientationPatient, float).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row, column, np.cross(row, column)], axis=1) * np.asarray(field.GridResolution, float)
    affine[:3, 3] = np.asarray(field.ImagePositionPatient, float)
    return u, Geometry(shape, LPS @ affine)
