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
from tests.data.files import GRID, VALUES, change


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


def test_oddities_are_reported(tmp_path):
    pages = [Image.fromarray(np.full((8, 9), v, np.uint8)) for v in (1, 2)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    volume = read_volume(tmp_path / "two.tif")
    assert (volume.array == 1).all()
    assert volume.warnings == (f"{tmp_path / 'two.tif'} has 2 pages; only the first is used.",)
    affine = np.eye(4)
    affine[0, 1] = np.cos(np.deg2rad(80))
    affine[1, 1] = np.sin(np.deg2rad(80))
    image = nib.Nifti1Image(np.zeros((5, 6, 7), np.float32), None)
    image.set_sform(affine, 1)
    nib.save(image, tmp_path / "sheared.nii.gz")
    volume = read_volume(tmp_path / "sheared.nii.gz", header="affine")
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-6)
    assert "its axes meet at 80.0 degrees" in volume.warnings[0]
    complex_values = np.ones((5, 6, 7), np.complex64)
    nib.save(nib.Nifti1Image(complex_values, np.eye(4)), tmp_path / "k.nii.gz")
    with pytest.raises(InputError, match="contains complex numbers"):
        check_intensities(read_volume(tmp_path / "k.nii.gz"))


def test_header_conflict(nifti):
    path = change(nifti, "conflict.nii.gz")
    image = nib.load(path)
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0]
    plain = nib.Nifti1Image(VALUES, np.diag([-1.0, -1, 1, 1]))
    nib.save(plain, path)
    path = change(path, "conflict2.nii.gz", pixdim=[1, 1.5, 1.2, 10, 1, 1, 1, 1], qform_code=0, sform_code=2)
    volume = read_volume(path)
    assert volume.geometry.spacing == pytest.approx((1.5, 1.2, 10))
    assert "pixdim says [1.5, 1.2, 10.0] mm" in volume.warnings[0]
    for header, spacing in (("pixdim", (1.5, 1.2, 10)), ("affine", (1, 1, 1))):
        volume = read_volume(path, header=header)
        assert volume.geometry.spacing == pytest.approx(spacing) and not volume.warnings
    with pytest.raises(InputError, match="'guess'"):
        read_volume(path, header="guess")


def test_original_acdc_header(real_data):
    volume = read_volume(real_data / "acdc_original_header" / "patient068_frame01.nii.gz")
    corrected = nib.load(real_data / "acdc" / "patient068" / "patient068_frame01.nii.gz")
    np.testing.assert_allclose(volume.geometry.affine, corrected.affine, atol=1e-4)
    assert "taking pixdim" in volume.warnings[0]


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
    with pytest.raises(InputError, match=rf"vectors\.nrrd has {count} values per voxel"):
        read_volume(tmp_path / "vectors.nrrd")


def test_lengths_in_other_units_become_millimetres(nifti):
    for unit, plural, scale in (("meter", "metres", 1000), ("micron", "microns", 0.001)):
        image = nib.Nifti1Image(VALUES, np.diag([1 / scale, 1 / scale, 1 / scale, 1]) @ GRID.affine)
        image.header.set_xyzt_units(unit)
        path = nifti.with_name(f"{unit}.nii")
        nib.save(image, path)
        volume = read_volume(path)
        np.testing.assert_allclose(volume.geometry.affine, GRID.affine, rtol=1e-5, atol=1e-3)
        assert volume.warnings == (f"{path} has lengths in {plural}; they are converted to millimetres.",)
        itk = sitk.ReadImage(str(path))  # the oracle: ITK converts, too
        np.testing.assert_allclose(itk.GetSpacing(), volume.geometry.spacing, rtol=1e-4)


def test_differing_and_missing_affines_are_reported(nifti):
    image = nib.Nifti1Image(VALUES, GRID.affine)
    moved = GRID.affine.copy()
    moved[1, 3] += 4
    image.set_sform(GRID.affine, 1)
    image.set_qform(moved, 1)
    nib.save(image, nifti.with_name("two.nii"))
    assert "differ by up to 4 mm; the sform is used" in read_volume(nifti.with_name("two.nii")).warnings[0]
    image.set_qform(GRID.affine, 1)
    nib.save(image, nifti.with_name("same.nii"))
    assert not read_volume(nifti.with_name("same.nii")).warnings
    path = change(nifti, "none.nii", qform_code=0, sform_code=0)
    assert "has no position in space (neither sform nor qform)" in read_volume(path).warnings[0]
