"""Reading every format with its geometry, and refusing what cannot be registered."""

from __future__ import annotations

import gzip
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from scripts.common.errors import InputError
from scripts.data.reader import check_intensities, read_volume
from scripts.data.writer import save_nifti
from scripts.spatial.files import size_limit
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
    with pytest.raises(InputError, match="in a single slice the last axis must be the one of length 1"):
        read_volume(tmp_path / "sagittal.nii.gz")


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


def test_series_needs_a_frame(nifti):
    path = change(nifti, "series.nii.gz", np.stack([VALUES, VALUES + 1], axis=-1))
    with pytest.raises(InputError, match=r"series of the frames 0 to 1; .*, or with --frame \(warp and masks\)"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, frame=1).array[0], VALUES + 1)
    with pytest.raises(InputError, match="frames 0 to 1, so there is no frame 2"):
        read_volume(path, frame=2)
    with pytest.raises(InputError, match="no frame 3"):
        read_volume(nifti, frame=3)
    with pytest.raises(InputError, match="must be a whole number from 0, got 'abc'"):
        read_volume(path, frame="abc")
    assert read_volume(change(nifti, "one.nii.gz", VALUES[..., None])).geometry.shape == (12, 10, 8)


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


def test_a_small_file_that_announces_a_huge_image_is_refused_at_once(tmp_path):
    """A few kB of gzip can hold many GB of zeros."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((4000, 4000, 2000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with gzip.open(tmp_path / "bomb.nii.gz", "wb") as stream:
        stream.write(header.binaryblock + bytes(100_000))
    with pytest.raises(InputError, match=r"announces the size \(4000, 4000, 2000\), 128\.0 GB .* the limit is 4 GB"):
        read_volume(tmp_path / "bomb.nii.gz")
    lines = "NRRD0004", "type: uchar", "dimension: 3", "sizes: 4000 4000 2000", "encoding: gzip", "", ""
    (tmp_path / "bomb.nrrd").write_bytes("\n".join(lines).encode() + gzip.compress(bytes(1000)))
    with pytest.raises(InputError, match=r"bomb\.nrrd announces the size \(4000, 4000, 2000, 1\)"):
        read_volume(tmp_path / "bomb.nrrd")


def test_the_limit_is_an_option_and_counts_one_frame(nifti):
    series = change(nifti, "series.nii.gz", np.stack([VALUES] * 3, axis=-1))
    limit = VALUES.size * 4 / 1e9
    with size_limit(limit):
        assert read_volume(series, frame=1).array.shape == (1, 12, 10, 8)
    with size_limit(0.99 * limit), pytest.raises(InputError, match="or raise --max_image_gb"):
        read_volume(series, frame=1)
    for wrong in (0, -1.0, float("nan"), True, "4"):
        with pytest.raises(InputError, match="max_image_gb must be a positive number"), size_limit(wrong):
            pass


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.mhd", "NDims = 2\nDimSize = 4 4\nElementType = MET_UCHAR\nElementDataFile = {data}\n"),
        ("a.mha", "NDims = 2\nDimSize = 4 4\nElementType = MET_UCHAR\nElementDataFile = {data}\n"),
        ("a.nhdr", "NRRD0004\ntype: uchar\ndimension: 2\nsizes: 4 4\nencoding: raw\ndata file: {data}\n"),
        ("a.nrrd", "NRRD0004\ntype: uchar\ndimension: 2\nsizes: 4 4\nencoding: raw\ndata file: {data}\n"),
        ("a.dat", "NRRD0004\ntype: uchar\ndimension: 2\nsizes: 4 4\nencoding: raw\ndatafile: {data}\n"),
    ],
)
def test_voxels_come_from_the_folder_of_the_header(tmp_path, name, header):
    """A header must not copy other files of the machine into an image."""
    (tmp_path / "secret.txt").write_bytes(bytes(range(40, 56)))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "own.raw").write_bytes(bytes(range(16)))
    for data in (str(tmp_path / "secret.txt"), "../secret.txt", "LIST"):
        (folder / name).write_text(header.format(data=data))
        with pytest.raises(InputError, match="the data must be one file beside the header"):
            read_volume(folder / name)
    (folder / name).write_text(header.format(data="gone.raw"))
    with pytest.raises(InputError, match=r"gone\.raw does not exist; give the path of the data file of a\."):
        read_volume(folder / name)
    if name in ("a.mhd", "a.nhdr"):
        (folder / name).write_text(header.format(data="own.raw"))
        assert read_volume(folder / name).array[0].T.ravel().tolist() == list(range(16))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and devices of POSIX")
def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "a.nii.gz")
    for path in (tmp_path / "a.nii.gz", "/dev/zero"):
        with pytest.raises(InputError, match="is a device or a pipe, not a file"):
            read_volume(path)


@pytest.mark.parametrize("name", ["price$5.nii.gz", "~home.nrrd", "caf\udce9.nii.gz", "a b#é.mha", "q.old.nii.gz"])
def test_unusual_names(nifti, tmp_path, name):
    image = sitk.ReadImage(str(nifti))
    plain = tmp_path / f"plain.{name.split('.', 1)[1].removeprefix('old.')}"
    sitk.WriteImage(image, str(plain))
    try:
        plain.rename(tmp_path / name)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    np.testing.assert_array_equal(read_volume(tmp_path / name).array[0], VALUES)


def test_a_name_that_itk_cannot_open(nifti, tmp_path):
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(tmp_path / "a.nrrd"))
    try:
        (tmp_path / "a.nrrd").rename(tmp_path / "caf\udce9.nrrd")
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    with pytest.raises(InputError, match=r"The name .*caf\\xe9\.nrrd is not UTF-8, and ITK cannot open it; rename"):
        read_volume(tmp_path / "caf\udce9.nrrd")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("seed", range(30))
def test_damaged_pictures(tmp_path, seed):
    chance = np.random.default_rng(seed)
    path = tmp_path / ("a.tif" if seed % 3 else "a.png")
    pixels = chance.integers(0, 255, (30, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **({"compression": "tiff_lzw"} if seed % 2 and seed % 3 else {}))
    content = bytearray(path.read_bytes())
    for _ in range(8):
        content[chance.integers(len(content))] = chance.integers(256)
    path.write_bytes(bytes(content[: chance.integers(20, len(content) + 1)]))
    try:
        assert read_volume(path).array.size
    except InputError as error:
        assert "a." in str(error) and "\n" not in str(error)


def test_no_temporary_folder_is_needed_to_read(nifti, tmp_path, monkeypatch):
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(tmp_path / "a.nrrd"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "gone"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert read_volume(tmp_path / "a.nrrd").array.size == VALUES.size
