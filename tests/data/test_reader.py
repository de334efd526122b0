"""Reading every format with its geometry, and refusing what cannot be registered."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from scripts.common.errors import InputError
from scripts.data.reader import check_intensities, read_volume
from scripts.data.writer import save_nifti
from scripts.spatial.geometry import LPS, Geometry
from tests.conftest import oblique

GRID = oblique((12, 10, 8), (1.5, 1.2, 3.0))
VALUES = np.arange(960, dtype=np.int16).reshape(12, 10, 8)


@pytest.fixture
def nifti(tmp_path):
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(VALUES, GRID.affine), path)
    return path


def change(path, name, array=None, **fields):
    image = nib.load(path)
    data = np.asarray(image.dataobj) if array is None else array
    copy = nib.Nifti1Image(data, image.affine)
    target = path.with_name(name)
    nib.save(copy, target)
    if fields:
        raw = bytearray(nib.openers.Opener(target).read())
        header = nib.Nifti1Header(bytes(raw[:348]), check=False)
        for key, value in fields.items():
            header[key] = value
        raw[:348] = header.binaryblock
        with nib.openers.Opener(target, "wb") as stream:
            stream.write(bytes(raw))
    return target


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mha", "mhd"])
def test_formats_agree(nifti, tmp_path, ending):
    path = tmp_path / f"copy.{ending}"
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], VALUES)
    np.testing.assert_allclose(volume.geometry.affine, GRID.affine, atol=1e-4)
    assert volume.stored == np.int16


def test_dicom_folder(nifti, tmp_path):
    folder = write_dicom(sitk.ReadImage(str(nifti)), tmp_path / "series")
    volume = read_volume(folder)
    np.testing.assert_allclose(volume.array[0], VALUES)
    np.testing.assert_allclose(volume.geometry.affine, GRID.affine, atol=1e-3)
    write_dicom(sitk.ReadImage(str(nifti)), folder, uid="1.2.3.4.5.9", prefix="b")
    with pytest.raises(InputError, match="2 DICOM series"):
        read_volume(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="without a DICOM series"):
        read_volume(tmp_path / "empty")


def write_dicom(image: sitk.Image, folder, uid: str = "1.2.3.4.5.6", prefix: str = "a"):
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    direction = image.GetDirection()
    for k in range(image.GetDepth()):
        piece = image[:, :, k]
        for tag, value in {
            "0008|0060": "MR",
            "0020|000e": uid,
            "0020|000d": "1.2.3.4.5",
            "0020|0032": "\\".join(f"{v:.8f}" for v in image.TransformIndexToPhysicalPoint((0, 0, k))),
            "0020|0037": "\\".join(f"{direction[i]:.10f}" for i in (0, 3, 6, 1, 4, 7)),
            "0018|0050": f"{image.GetSpacing()[2]}",
            "0020|0013": str(k),
        }.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{prefix}{k}.dcm"))
        writer.Execute(piece)
    return folder


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_pictures_lie_as_in_itk(tmp_path, ending):
    rows = (np.linspace(0, 255, 40)[:, None] * np.ones((40, 60))).astype(np.uint8)
    Image.fromarray(rows).save(tmp_path / f"grey.{ending}")
    grey = read_volume(tmp_path / f"grey.{ending}")
    assert grey.array.shape == (1, 60, 40)
    assert abs(int(grey.array[0, 10, 39]) - 255) < 4
    np.testing.assert_array_equal(grey.geometry.affine, LPS)
    colour = np.dstack([rows, 255 - rows, np.zeros_like(rows)])
    Image.fromarray(colour).save(tmp_path / f"colour.{ending}")
    assert read_volume(tmp_path / f"colour.{ending}").array.shape == (3, 60, 40)
    Image.fromarray(np.dstack([rows] * 3)).save(tmp_path / f"grey_rgb.{ending}")
    assert read_volume(tmp_path / f"grey_rgb.{ending}").array.shape == (1, 60, 40)
    Image.fromarray(colour).convert("RGBA").save(tmp_path / "alpha.png")
    assert read_volume(tmp_path / "alpha.png").array.shape == (3, 60, 40)


def test_single_slice_is_two_dimensional(nifti):
    assert read_volume(change(nifti, "flat.nii.gz", VALUES[:, :, :1])).geometry.shape == (12, 10)


def test_a_slice_on_another_axis_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((1, 8, 9), np.float32), np.eye(4)), tmp_path / "sagittal.nii.gz")
    with pytest.raises(InputError, match="of a single slice the last axis must be the one of length 1"):
        read_volume(tmp_path / "sagittal.nii.gz")


def test_what_is_read_only_in_part_is_said(tmp_path, caplog):
    pages = [Image.fromarray(np.full((8, 9), v, np.uint8)) for v in (1, 2)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    assert (read_volume(tmp_path / "two.tif").array == 1).all()
    assert "two.tif has 2 pages; the first one is taken." in caplog.text
    affine = np.eye(4)
    affine[0, 1] = np.cos(np.deg2rad(80))
    affine[1, 1] = np.sin(np.deg2rad(80))
    image = nib.Nifti1Image(np.zeros((5, 6, 7), np.float32), None)
    image.set_sform(affine, 1)
    nib.save(image, tmp_path / "sheared.nii.gz")
    np.testing.assert_allclose(
        read_volume(tmp_path / "sheared.nii.gz", header="affine").geometry.affine, affine, atol=1e-6
    )
    assert "its axes meet at 80.0 degrees" in caplog.text
    complex_values = np.ones((5, 6, 7), np.complex64)
    nib.save(nib.Nifti1Image(complex_values, np.eye(4)), tmp_path / "k.nii.gz")
    with pytest.raises(InputError, match="holds complex numbers"):
        check_intensities(read_volume(tmp_path / "k.nii.gz"))


def test_series_needs_a_frame(nifti):
    path = change(nifti, "series.nii.gz", np.stack([VALUES, VALUES + 1], axis=-1))
    with pytest.raises(InputError, match=r"series of the frames 0 to 1; .*, --frame of warp and masks"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, frame=1).array[0], VALUES + 1)
    with pytest.raises(InputError, match="frames 0 to 1, and frame 2"):
        read_volume(path, frame=2)
    with pytest.raises(InputError, match="no frame 3"):
        read_volume(nifti, frame=3)
    with pytest.raises(InputError, match="must be a whole number from 0, got 'abc'"):
        read_volume(path, frame="abc")
    assert read_volume(change(nifti, "one.nii.gz", VALUES[..., None])).geometry.shape == (12, 10, 8)


def test_header_conflict(nifti, caplog):
    path = change(nifti, "conflict.nii.gz")
    image = nib.load(path)
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0]
    plain = nib.Nifti1Image(VALUES, np.diag([-1.0, -1, 1, 1]))
    nib.save(plain, path)
    path = change(path, "conflict2.nii.gz", pixdim=[1, 1.5, 1.2, 10, 1, 1, 1, 1], qform_code=0, sform_code=2)
    with caplog.at_level("WARNING"):
        assert read_volume(path).geometry.spacing == pytest.approx((1.5, 1.2, 10))
    assert "pixdim says [1.5, 1.2, 10.0] mm" in caplog.text
    caplog.clear()
    assert read_volume(path, header="pixdim").geometry.spacing == pytest.approx((1.5, 1.2, 10))
    assert read_volume(path, header="affine").geometry.spacing == pytest.approx((1, 1, 1))
    assert not caplog.text
    with pytest.raises(InputError, match="'guess'"):
        read_volume(path, header="guess")


def test_original_acdc_header(real_data, caplog):
    with caplog.at_level("WARNING"):
        volume = read_volume(real_data / "acdc_original_header" / "patient068_frame01.nii.gz")
    corrected = nib.load(real_data / "acdc" / "patient068" / "patient068_frame01.nii.gz")
    np.testing.assert_allclose(volume.geometry.affine, corrected.affine, atol=1e-4)
    assert "taking pixdim" in caplog.text


def test_vectors_and_fields_are_refused_or_read_as_colour(nifti):
    field = nib.Nifti1Image(np.zeros((6, 6, 6, 1, 3), np.float32), np.eye(4))
    field.header.set_intent(1007)
    nib.save(field, nifti.with_name("ddf.nii.gz"))
    with pytest.raises(InputError, match="displacement field"):
        read_volume(nifti.with_name("ddf.nii.gz"))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(20, 18, 6), (20, 18)])
def test_colour_is_written_as_it_is_read_here_and_by_itk(tmp_path, shape, dtype):
    colours = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(dtype)
    grid = Geometry(shape, np.diag([-1.0, -2.0, 3.0, 1.0]))
    save_nifti(tmp_path / "colour.nii.gz", colours, grid)
    volume = read_volume(tmp_path / "colour.nii.gz")
    np.testing.assert_array_equal(volume.array, np.moveaxis(colours, -1, 0))
    np.testing.assert_allclose(volume.geometry.affine, grid.affine)
    image = sitk.ReadImage(str(tmp_path / "colour.nii.gz"))
    assert image.GetNumberOfComponentsPerPixel() == 3 and image.GetSize() == shape
    assert image[4, 3, 0][2] == colours[4, 3, 0, 2] if len(shape) == 3 else image[4, 3][2] == colours[4, 3, 2]


@pytest.mark.parametrize("shape", [(8, 7, 6), (8, 7)])
def test_rgb24(tmp_path, shape):
    colours = np.zeros(shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["G"] = np.arange(colours.size).reshape(shape)
    nib.save(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii.gz")
    volume = read_volume(tmp_path / "rgb.nii.gz")
    assert volume.array.shape == (3, *shape)
    np.testing.assert_array_equal(volume.array[1], colours["G"])


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_vectors_are_colours_or_refused(tmp_path, count):
    values = np.arange(4 * 5 * 6 * count, dtype=np.float32).reshape(4, 5, 6, count)
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), str(tmp_path / "vectors.nrrd"))
    if count in (3, 4):
        assert read_volume(tmp_path / "vectors.nrrd").array.shape == (3, 6, 5, 4)
        return
    with pytest.raises(InputError, match=rf"vectors\.nrrd has {count} values a voxel"):
        read_volume(tmp_path / "vectors.nrrd")


def test_missing_truncated_and_foreign_files(nifti, tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.nii\.gz does not exist"):
        read_volume(tmp_path / "nowhere.nii.gz")
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(nifti.read_bytes()[:200])
    with pytest.raises(InputError, match=r"cut\.nii\.gz cannot be read as NIfTI"):
        read_volume(cut)
    for name in ("text.nii", "text.nrrd", "text.png", "text.dat"):
        (tmp_path / name).write_text("this is not an image")
        with pytest.raises(InputError, match=name):
            read_volume(tmp_path / name)


@pytest.mark.parametrize("bad", [0.0, -2.0, np.nan])
def test_impossible_voxel_sizes(nifti, bad):
    path = change(nifti, "bad.nii.gz", pixdim=[1, 1.5, bad, 3.0, 1, 1, 1, 1])
    with pytest.raises(InputError, match="voxel size"):
        read_volume(path)


def test_intensities(nifti):
    values = VALUES.astype(np.float32)
    values[0, 0, :3] = [np.nan, np.inf, -np.inf]
    volume = read_volume(change(nifti, "nan.nii.gz", values))
    with pytest.raises(InputError, match=r"3 NaN or infinite voxels.*--fill_nan 0"):
        check_intensities(volume)
    filled = check_intensities(volume, 0.0)
    assert np.isfinite(filled).all()
    assert filled[0, 0, 0, 1] == 0
    with pytest.raises(InputError, match="value 7 everywhere"):
        check_intensities(read_volume(change(nifti, "flat.nii.gz", np.full((5, 5, 5), 7, np.int16))))
