"""Files that cannot be registered are refused with one sentence; unusual names are not."""

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
from scripts.spatial.files import size_limit
from tests.data.files import VALUES, change


def test_a_slice_on_another_axis_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((1, 8, 9), np.float32), np.eye(4)), tmp_path / "sagittal.nii.gz")
    with pytest.raises(InputError, match="in a single slice the last axis must be the one of length 1"):
        read_volume(tmp_path / "sagittal.nii.gz")


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
