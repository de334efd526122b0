"""DICOM results, read back by SimpleITK, highdicom and pydicom, and checked by dciodvfy."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from pydicom.uid import generate_uid

from scripts.common.errors import InputError
from scripts.data.reader import read_volume
from scripts.data.segmentations import write_segmentation
from scripts.data.writer import save_nifti
from scripts.spatial.fields import write_field
from scripts.spatial.geometry import resample, world_displacement
from scripts.workflow.dicom import check_dicom, write_dicom
from tests.apps.dicom_series import write_series
from tests.conftest import oblique, smooth_field
from tests.data.files import packed

NAMES = ["pair 1 (0.95)", "pair 2 (0.91)"]


@pytest.fixture(scope="module", params=["MR", "CT"])
def written(request, tmp_path_factory):
    """A result folder of two oblique series of different grids, with its DICOM objects."""
    folder = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(0)
    grids = {
        "moving": oblique((24, 20, 7), (2.0, 2.5, 5.0), 25.0),
        "fixed": oblique((20, 22, 6), (2.2, 2.0, 6.0), 15.0),
    }
    shared = {"study": generate_uid(), "frame": generate_uid(), "modality": request.param}
    series = {}
    for role, grid in grids.items():
        smooth = torch.nn.functional.interpolate(
            torch.from_numpy(rng.random((1, 1, 5, 5, 4))), grid.shape, mode="trilinear"
        )
        values = np.rint(1000 * smooth[0, 0].numpy()) - (400 if request.param == "CT" else 0)
        series[role] = write_series(folder / role, values, grid.affine, description=role, **shared)
    volumes = {role: read_volume(series[role]) for role in series}
    grid = volumes["fixed"].geometry
    ddf = smooth_field(grid.shape, 1.5)
    out = folder / "out"
    out.mkdir()
    u_lps = world_displacement(ddf[0].numpy(), grid).astype(np.float32)
    write_field(out / "ddf.nii.gz", u_lps, grid)
    moving = volumes["moving"]
    moved = resample(torch.from_numpy(moving.array.astype(np.float32)), moving.geometry, grid, np.eye(4), ddf, fill=0.0)
    save_nifti(out / "moved.nii.gz", np.rint(moved[0].numpy()).astype(np.int16), grid)
    regions = {}
    for role, volume in volumes.items():
        masks = np.zeros((2, *volume.geometry.shape), bool)
        second = 8 if request.param == "MR" else 12  # in the MR pair they overlap
        masks[0, 4:12, 5:13, 1:4], masks[1, second : second + 6, 9:17, 2:6] = True, True
        regions[role] = masks
        write_segmentation(out / f"{role}_rois.seg.nrrd", packed(iter(masks), NAMES, volume.geometry))
    (out / "correspondence.json").write_text(json.dumps({"pairs": [{}, {}]}), encoding="utf-8")
    files = write_dicom(out, series["moving"], series["fixed"])
    return out, series, regions, u_lps, grid, files


def transform_of(path: Path) -> sitk.Transform:
    """The field of a registration object as SimpleITK's transform, by the words of the standard (C.20.3)."""
    (item,) = pydicom.dcmread(path).DeformableRegistrationSequence
    (grid,) = item.DeformableRegistrationGridSequence
    nx, ny, nz = grid.GridDimensions
    image = sitk.GetImageFromArray(np.frombuffer(grid.VectorGridData, "<f4").reshape(nz, ny, nx, 3).astype(float), True)
    row, column = np.asarray(grid.ImageOrientationPatient, float).reshape(2, 3)
    image.SetDirection(np.stack([row, column, np.cross(row, column)], axis=1).ravel().tolist())
    image.SetOrigin([float(v) for v in grid.ImagePositionPatient])
    image.SetSpacing([float(v) for v in grid.GridResolution])
    return sitk.DisplacementFieldTransform(image)


def read_itk(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.Cast(reader.Execute(), sitk.sitkFloat64)


def test_the_field_maps_points_as_ours_does(written):
    out, _, _, u_lps, grid, _ = written
    transform = transform_of(out / "dicom" / "registration.dcm")
    lps = np.diag([-1, -1, 1, 1]) @ grid.affine
    worst = 0.0
    for index in np.argwhere(np.ones(grid.shape))[::37]:
        point = (lps @ [*index, 1])[:3]
        mapped = np.asarray(transform.TransformPoint(point.tolist()))
        worst = max(worst, float(np.abs(mapped - point - u_lps[tuple(index)]).max()))
    assert worst < 0.1, "mm"
    assert np.abs(u_lps).max() > 3


def test_itk_moves_the_moving_series_onto_the_moved_one(written):
    out, series, *_ = written
    moving, fixed, ours = (read_itk(f) for f in (series["moving"], series["fixed"], out / "dicom" / "moved"))
    np.testing.assert_allclose(ours.GetOrigin(), fixed.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(ours.GetDirection(), fixed.GetDirection(), atol=1e-5)
    transform = transform_of(out / "dicom" / "registration.dcm")
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0))
    difference = np.abs(theirs - sitk.GetArrayFromImage(ours))
    inside = np.zeros_like(difference, bool)
    inside[2:-2, 7:-7, 7:-7] = True
    assert np.quantile(difference[inside], 0.9) <= 0.6, "grey values"
    first = pydicom.dcmread(next((out / "dicom" / "moved").iterdir()))
    names = {d.ReferencedSOPInstanceUID for d in first.SourceImageSequence}
    assert names == {pydicom.dcmread(f).SOPInstanceUID for f in series["moving"].iterdir()}
    assert first.ImageType[0] == "DERIVED"


def test_segments_are_exact_and_named_alike(written):
    out, series, regions, *_ = written
    found = {role: hd.seg.segread(out / "dicom" / f"{role}_regions.dcm") for role in regions}
    for role, seg in found.items():
        assert [seg.get_segment_description(k).segment_label for k in (1, 2)] == NAMES
        slices = sorted(
            (pydicom.dcmread(f, stop_before_pixels=True) for f in series[role].iterdir()),
            key=lambda d: int(d.InstanceNumber),
        )
        uids = [d.SOPInstanceUID for d in slices]
        pixels = seg.get_pixels_by_source_instance(uids, segment_numbers=[1, 2], assert_missing_frames_are_empty=True)
        np.testing.assert_array_equal(np.moveaxis(pixels, -1, 0).astype(bool), regions[role].transpose(0, 3, 2, 1))
    one, two = ([seg.get_segment_description(k) for k in (1, 2)] for seg in found.values())
    assert [d.tracking_uid for d in one] == [d.tracking_uid for d in two] and one[0].tracking_uid != one[1].tracking_uid
    colours = [[tuple(d.RecommendedDisplayCIELabValue) for d in side] for side in (one, two)]
    assert colours[0] == colours[1] and colours[0][0] != colours[0][1]


def test_objects_conform_to_the_standard(written):
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy (Debian: dicom3tools) is not installed")
    out, *_, files = written
    assert len(files) == 3 + 6
    for name in files:
        done = subprocess.run(["dciodvfy", out / name], capture_output=True, encoding="utf-8")
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
        assert not errors, f"{name}: {errors}"


def test_two_patients_and_missing_slices_are_refused(written, tmp_path):
    _, series, *_ = written
    other = shutil.copytree(series["fixed"], tmp_path / "other")
    for file in other.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PatientID = "p002"
        dataset.save_as(file)
    with pytest.raises(InputError, match=r"patients 'p001' and 'p002'"):
        check_dicom(series["moving"], other)
    gap = shutil.copytree(series["fixed"], tmp_path / "gap")
    next(f for f in gap.iterdir() if f.stem.endswith("_2")).unlink()
    with pytest.raises(InputError, match="a slice may be missing"):
        check_dicom(series["moving"], gap)
    with pytest.raises(InputError, match="without a DICOM series"):
        check_dicom(series["moving"], tmp_path)
