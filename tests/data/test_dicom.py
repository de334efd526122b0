"""DICOM series: one stack of even slices is read as ITK reads it; everything else names the file that is wrong."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from scripts.common.errors import InputError
from scripts.data.dicom_objects.segmentation import tracking_uids, write_segmentation_object
from scripts.data.dicom_objects.series import read_series
from scripts.data.pair import LoadPair
from scripts.data.reader import read_volume
from scripts.spatial.geometry import LPS, Geometry, resample_map
from tests.apps.dicom_series import write_series
from tests.data.files import packed

TURN = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
TURN = TURN * np.sign(np.linalg.det(TURN))
SPACING, ORIGIN = (0.8, 1.1, 5.0), np.array([10.0, -20.0, 30.0])
SERIES, FRAME = generate_uid(), generate_uid()


def write_slice(path, k: int, **changes) -> None:
    """Slice k of an oblique stack, 8 columns and 6 rows."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = SERIES, "1.2.3", FRAME
    data.Modality, data.ImageType, data.InstanceNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], k + 1
    data.Rows, data.Columns, data.PixelSpacing = 6, 8, [SPACING[1], SPACING[0]]
    data.ImageOrientationPatient = [round(float(v), 8) for v in (*TURN[:, 0], *TURN[:, 1])]
    data.ImagePositionPatient = [round(float(v), 5) for v in ORIGIN + TURN[:, 2] * SPACING[2] * k]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelData = (np.arange(48, dtype=np.uint16) + 100 * k).tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


@pytest.fixture
def series(tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    for k in range(6):
        write_slice(folder / f"{(k * 5) % 7}_{k}.dcm", k)  # names in another order than the slices
    return folder


def name_of(folder, k: int):
    return next(folder.glob(f"*_{k}.dcm"))


def test_a_whole_series(series):
    (series / "notes.txt").write_text("not DICOM")
    volume = read_volume(series)
    assert volume.array.shape == (1, 8, 6, 6) and not volume.warnings
    np.testing.assert_array_equal(volume.array[0, :, :, 2].T.ravel(), np.arange(48) + 200)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = TURN * SPACING, ORIGIN
    np.testing.assert_allclose(volume.geometry.affine, LPS @ affine, atol=1e-4)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    np.testing.assert_array_equal(volume.array[0].T, sitk.GetArrayFromImage(reader.Execute()))


def shifted(k: int, mm: float, axis: int) -> list[float]:
    return [float(v) for v in ORIGIN + TURN[:, 2] * SPACING[2] * k + TURN[:, axis] * mm]


@pytest.mark.parametrize(
    ("k", "changes", "message"),
    [
        (3, {"ImagePositionPatient": None}, r"_3\.dcm has no usable ImagePositionPatient"),
        (2, {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, r"_2\.dcm has a different ImageOrientationPatient"),
        (4, {"PixelSpacing": [1.3, 0.8]}, r"_4\.dcm has a different PixelSpacing \(\[1\.3, 0\.8\]\)"),
        (1, {"FrameOfReferenceUID": "1.2.9"}, r"_1\.dcm has a different FrameOfReferenceUID \(1\.2\.9\)"),
        (0, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, r"_0\.dcm has a different ImageType .*LOCALIZER"),
        (3, {"ImagePositionPatient": shifted(3, 0.6, 2)}, r"a gap of 5\.6 mm after .*_2\.dcm"),
        (5, {"ImagePositionPatient": shifted(4, 0.0, 2)}, r"the same slice twice, in .*dcm and .*dcm\."),
        (5, {"Modality": "SEG"}, r"_5\.dcm is a segmentation \(SEG\), not an image; segmentations can be labels"),
        (5, {"Modality": "RTSTRUCT", "Rows": None}, r"_5\.dcm is a set of contours \(RTSTRUCT\)"),
        (2, {"PixelSpacing": [1.0, 1.0, 1.0]}, r"_2\.dcm has no usable PixelSpacing"),
        (2, {"PixelSpacing": 1.0}, r"_2\.dcm has no usable PixelSpacing"),
        (2, {"ImagePositionPatient": [1.0, 2.0]}, r"_2\.dcm has no usable ImagePositionPatient"),
        (2, {"ImageOrientationPatient": [1, 0, 0]}, r"_2\.dcm has no usable ImageOrientationPatient"),
        (5, {"NumberOfFrames": 4}, r"_5\.dcm is a multi-frame DICOM file; convert it to NIfTI"),
        (5, {"SeriesInstanceUID": "1.2.77"}, "contains 2 DICOM series"),
    ],
)
def test_a_slice_that_does_not_belong(series, k, changes, message):
    write_slice(name_of(series, k), k, **changes)
    with pytest.raises(InputError, match=message):
        read_volume(series)


def test_a_missing_slice(series):
    name_of(series, 2).unlink()
    with pytest.raises(InputError, match=r"a gap of 10 mm after .*_1\.dcm, while slices are 5 mm apart"):
        read_volume(series)


def test_two_phases(series):
    for k in range(6):
        write_slice(series / f"late_{k}.dcm", k)
    with pytest.raises(InputError, match=r"the same slice twice, .*several phases or echoes"):
        read_volume(series)


def test_gantry_tilt(series):
    for k in range(6):
        write_slice(name_of(series, k), k, ImagePositionPatient=shifted(k, 1.0 * k, 1))
    with pytest.raises(InputError, match=r"gantry tilt of 11\.3 degrees, last in .*_5\.dcm"):
        read_volume(series)


def test_damaged_files(series):
    path = name_of(series, 4)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InputError, match="series"):
        read_volume(series)


def test_a_single_file_is_a_plane_and_a_label_object_is_refused(series):
    assert read_volume(name_of(series, 1)).geometry.shape == (8, 6)
    write_slice(series.parent / "label.dcm", 0, Modality="SEG", NumberOfFrames=3)
    with pytest.raises(InputError, match=r"label\.dcm is a segmentation \(SEG\), not an image"):
        read_volume(series.parent / "label.dcm")
    assert pydicom.dcmread(series.parent / "label.dcm").Modality == "SEG"


def label_map(shape) -> np.ndarray:
    """Two boxes; the first and the last slice contain neither."""
    label = np.zeros(shape, np.uint8)
    label[2:6, 3:7, 2:4], label[6:9, 1:5, 3:5] = 1, 2
    return label


def test_a_segmentation_object_is_a_label_map(tmp_path):
    """The same label as NIfTI and as a DICOM object gives the same pair; the object lacks the empty slices."""
    affine = np.diag([-2.0, -2.5, 4.0, 1.0])
    image = np.random.default_rng(0).integers(0, 900, (12, 10, 7))
    folder = write_series(tmp_path / "image", image, affine, study="1.2.3", frame="1.2.4")
    label = label_map(image.shape)
    series = read_series(folder)
    grid = Geometry(image.shape, affine)
    regions = packed([label == 1, label == 2], ["a", "b"], grid)
    seg = tmp_path / "label.dcm"
    write_segmentation_object(seg, regions, series, tracking_uids(2), 1, "labels")
    read = read_volume(seg, label=True)
    assert read.geometry.shape[2] < image.shape[2]  # only the slices with a segment
    nib.save(nib.Nifti1Image(label, affine), tmp_path / "label.nii.gz")
    maps = []
    for path in (seg, tmp_path / "label.nii.gz"):
        pair = LoadPair()({"moving": str(folder), "fixed": str(folder), "fixed_label": str(path)})["pair"]
        maps.append(resample_map(pair.fixed_label.array[0], pair.fixed_label.geometry, grid))
    np.testing.assert_array_equal(maps[0], label)
    np.testing.assert_array_equal(maps[0], maps[1])
    with pytest.raises(InputError, match="not an image"):
        read_volume(seg)


def test_segments_that_overlap_are_no_label_map(tmp_path):
    image, affine = np.random.default_rng(0).integers(0, 900, (12, 10, 5)), np.diag([-2.0, -2.5, 4.0, 1.0])
    series = read_series(write_series(tmp_path / "image", image, affine, study="1.2.3", frame="1.2.4"))
    mask = np.zeros(image.shape, bool)
    mask[2:8, 2:8, 1:4] = True
    regions = packed([mask, mask], ["a", "b"], Geometry(image.shape, affine))
    write_segmentation_object(tmp_path / "label.dcm", regions, series, tracking_uids(2), 1, "labels")
    with pytest.raises(InputError, match=r"label\.dcm is a DICOM segmentation that cannot be read as a label map"):
        read_volume(tmp_path / "label.dcm", label=True)
