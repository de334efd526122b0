"""``warp`` on files: images, label maps and landmarks; kept headers and refused input."""

from __future__ import annotations

import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage

from scripts import compose, invert, warp
from scripts.common.errors import InputError
from scripts.data.reader import read_volume
from scripts.data.writer import save_nifti
from scripts.spatial.chain import Linear, map_points
from scripts.spatial.fields import write_field
from scripts.spatial.geometry import LPS, Geometry, apply_affine, world_displacement
from scripts.spatial.landmark_files import Landmarks, read_landmark_file, write_landmark_file
from scripts.spatial.transform_files import read_chain, write_chain
from tests.conftest import oblique, smooth_field

FAR = Geometry((8, 8, 8), np.array([[1, 0, 0, 900], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))


def data(path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_the_true_field_brings_the_moving_image_to_the_fixed_one(heart_files, tmp_path):
    out = tmp_path / "new folder" / "moved.nii.gz"
    facts = warp(heart_files["moving"], out, heart_files["true_ddf"], progress=False)
    assert facts["inside_percent"] > 90
    moved, fixed, moving = data(out), data(heart_files["fixed"]), data(heart_files["moving"])
    assert moved.dtype == np.int16
    np.testing.assert_allclose(nib.load(out).affine, nib.load(heart_files["fixed"]).affine, atol=1e-4)
    inner = (slice(6, -6), slice(6, -6), slice(None))
    error = [np.abs(a[inner].astype(float) - fixed[inner]).mean() for a in (moving, moved)]
    assert error[1] < 0.7 * error[0]  # the rest is noise
    # One interpolation: a field, and its halves as two transforms, give the same image as SimpleITK's composite.
    itk = sitk.DisplacementFieldTransform(sitk.Cast(sitk.ReadImage(heart_files["true_ddf"]), sitk.sitkVectorFloat64))
    images = [sitk.ReadImage(heart_files[r], sitk.sitkFloat32) for r in ("fixed", "moving")]
    there = sitk.GetArrayFromImage(sitk.Resample(images[1], images[0], itk, sitk.sitkLinear)).T
    assert np.abs(moved - there)[inner].max() <= 0.51  # the file holds whole numbers


@pytest.mark.parametrize("interpolation", [None, "onehot"])
def test_label_maps_keep_type_header_and_table(heart_files, tmp_path, interpolation):
    image = nib.load(heart_files["moving_label"])
    labels = nib.Nifti1Image(np.asarray(image.dataobj).astype(np.uint16) * 300, image.affine)
    labels.header.set_intent(1002, name="heart")
    labels.header["descrip"] = b"drawn by hand"
    table = nib.nifti1.Nifti1Extension("comment", b"300 right ventricle\n600 myocardium\n900 left ventricle")
    labels.header.extensions.append(table)
    nib.save(labels, tmp_path / "labels.nii.gz")
    out = tmp_path / "moved.nii.gz"
    warp(tmp_path / "labels.nii.gz", out, heart_files["true_ddf"], interpolation=interpolation, progress=False)
    moved = nib.load(out)
    assert moved.get_data_dtype() == np.uint16
    assert set(np.unique(moved.dataobj)) == {0, 300, 600, 900}
    assert int(moved.header["intent_code"]) == 1002 and moved.header["descrip"].item() == b"drawn by hand"
    assert [e.get_content() for e in moved.header.extensions] == [table.get_content()]
    truth = data(heart_files["fixed_label"])
    both = [((data(out) == 300 * v) & (truth == v)).sum() / (truth == v).sum() for v in (1, 2, 3)]
    assert min(both) > 0.9


def test_nrrd_keeps_its_fields(heart_files, tmp_path):
    image = sitk.ReadImage(heart_files["moving_label"])
    image.SetMetaData("Segment0_Name", "right ventricle")
    image.SetMetaData("Segment0_LabelValue", "1")
    image.SetMetaData("Segment0_Extent", "0 1 0 1 0 1")
    sitk.WriteImage(image, str(tmp_path / "heart.seg.nrrd"))
    warp(tmp_path / "heart.seg.nrrd", tmp_path / "moved.seg.nrrd", heart_files["true_ddf"], progress=False)
    moved = sitk.ReadImage(str(tmp_path / "moved.seg.nrrd"))
    assert moved.GetMetaData("Segment0_Name") == "right ventricle"
    assert "Segment0_Extent" not in moved.GetMetaDataKeys()  # true only of the old grid
    warp(heart_files["moving_label"], tmp_path / "moved.nii.gz", heart_files["true_ddf"], label=True, progress=False)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(moved).T, data(tmp_path / "moved.nii.gz"))
    assert moved.GetSpacing() == pytest.approx(sitk.ReadImage(heart_files["fixed"]).GetSpacing(), abs=1e-5)


def test_another_reference_and_an_affine(heart_files, tmp_path):
    shift = np.eye(4)
    shift[:3, 3] = (3.0, 0.0, 0.0)
    np.savetxt(tmp_path / "shift.txt", shift)
    fine = nib.load(heart_files["fixed"])
    grid = Geometry(fine.shape, fine.affine).resized((50, 40, 9))
    nib.save(nib.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.affine), tmp_path / "reference.nii.gz")
    chain = [heart_files["true_ddf"], str(tmp_path / "shift.txt")]
    out = tmp_path / "moved.nrrd"
    warp(heart_files["moving"], out, ",".join(chain), reference=tmp_path / "reference.nii.gz", interpolation="cubic",
         progress=False)  # fmt: skip
    moved = sitk.ReadImage(str(out))
    assert moved.GetSize() == (50, 40, 9) and moved.GetPixelID() == sitk.sitkInt16
    # The same chain as one file, by compose.
    compose(chain, tmp_path / "one.h5", reference=tmp_path / "reference.nii.gz")
    again = tmp_path / "again.nrrd"
    warp(heart_files["moving"], again, tmp_path / "one.h5", interpolation="cubic", progress=False)
    assert np.mean(sitk.GetArrayFromImage(moved) == sitk.GetArrayFromImage(sitk.ReadImage(str(again)))) > 0.99


def test_pictures(tmp_path):
    grid = Geometry((40, 30), np.diag([-1.0, -1.0, 1.0, 1.0]))
    picture = np.zeros((40, 30), np.uint8)
    picture[10:20, 5:15] = 200
    Image.fromarray(picture.T).save(tmp_path / "moving.png")
    shift = np.eye(4)
    shift[0, 3] = -4.0  # columns of pictures run to the left
    write_chain(tmp_path / "f.nii.gz", [Linear(shift)], grid)
    warp(tmp_path / "moving.png", tmp_path / "moved.png", tmp_path / "f.nii.gz", progress=False)
    moved = np.asarray(Image.open(tmp_path / "moved.png")).T
    assert moved[6:16, 5:15].min() == 200 and moved.sum() == picture.sum()


@pytest.mark.parametrize("suffix", [".csv", ".fcsv", ".mrk.json"])
def test_landmarks_there_and_back(heart, heart_files, tmp_path, suffix):
    start = tmp_path / f"fixed{suffix}"
    write_landmark_file(start, Landmarks(heart.fixed_landmarks, [f"mark {k}" for k in range(24)], "lps"))
    frame = "lps" if suffix == ".csv" else None
    there = tmp_path / f"there{suffix}"
    facts = warp(start, there, heart_files["true_ddf"], points_frame=frame)
    assert facts == {"output": str(there), "points": 24, "direction": "fixed_to_moving"}
    found = read_landmark_file(there, None, frame)
    np.testing.assert_allclose(found.points_ras, heart.moving_landmarks, atol=0.05)
    assert found.labels[3] == "mark 3"
    back = tmp_path / f"back{suffix}"
    warp(there, back, heart_files["true_ddf"], points_frame=frame, direction="moving_to_fixed")
    np.testing.assert_allclose(read_landmark_file(back, None, frame).points_ras, heart.fixed_landmarks, atol=0.01)
    # The inverse as a file gives the same up to interpolation.
    invert(heart_files["true_ddf"], tmp_path / "inverse.nii.gz", moving=heart_files["moving"], progress=False)
    warp(there, tmp_path / f"other{suffix}", tmp_path / "inverse.nii.gz", points_frame=frame)
    other = read_landmark_file(tmp_path / f"other{suffix}", None, frame).points_ras
    apart = np.linalg.norm(other - heart.fixed_landmarks, axis=1)  # 3 mm voxels, steepest at the landmarks
    assert apart.mean() < 0.3 and apart.max() < 0.6


def test_landmarks_in_voxels(heart, heart_files, tmp_path):
    fixed = np.linalg.inv(heart.fixed_affine)
    np.savetxt(tmp_path / "i.csv", apply_affine(fixed, heart.fixed_landmarks), delimiter=",")
    options = {"reference": heart_files["fixed"], "points_frame": "voxel"}
    with pytest.raises(InputError, match="name the image with --moving"):
        warp(tmp_path / "i.csv", tmp_path / "o.csv", heart_files["true_ddf"], **options)
    warp(tmp_path / "i.csv", tmp_path / "o.csv", heart_files["true_ddf"], moving=heart_files["moving"], **options)
    found = np.loadtxt(tmp_path / "o.csv", delimiter=",", skiprows=1)
    truth = apply_affine(np.linalg.inv(heart.moving_affine), heart.moving_landmarks)
    np.testing.assert_allclose(found, truth, atol=0.02)


def test_what_is_refused(heart_files, tmp_path):
    moving, field, out = heart_files["moving"], heart_files["true_ddf"], str(tmp_path / "out.nii.gz")
    write_chain(tmp_path / "far.nii.gz", [Linear(np.eye(4))], FAR)
    plane = oblique((30, 26), (1.5, 1.2))
    write_chain(tmp_path / "plane.nii.gz", [Linear(np.eye(4))], plane)
    away = np.eye(4)
    away[0, 3] = 5000
    np.savetxt(tmp_path / "away.txt", away)
    (tmp_path / "p.csv").write_text("row,column\n1,2\n", encoding="utf-8")
    for source, output, transforms, options, message in (
        (moving, moving, field, {}, "is an input as well as the output"),
        (moving, field, field, {}, "is an input as well as the output"),
        (heart_files["moving_label"], out, field, {"label": True, "interpolation": "linear"},
         "takes interpolation nearest or onehot, not 'linear'; values between two labels are not labels"),
        (moving, out, field, {"interpolation": "onehot"}, "takes interpolation linear or cubic or nearest"),
        (moving, out, field, {"interpolation": "sinc"}, "not 'sinc'"),
        (moving, out, tmp_path / "far.nii.gz", {"reference": heart_files["fixed"]}, "do not overlap: the field covers"),
        (moving, out, tmp_path / "far.nii.gz", {}, "No part of .* falls"),
        (moving, out, [field, tmp_path / "away.txt"], {}, "No part of .* falls"),
        (moving, out, tmp_path / "plane.nii.gz", {}, "is 3-D and the result's grid is 2-D"),
        (moving, out, tmp_path / "away.txt", {}, "affine and have no grid"),
        (moving, out, tmp_path / "gone.h5", {}, "does not exist"),
        (moving, out, field, {"fill": "abc"}, "fill must be a number, got 'abc'"),
        (heart_files["moving_label"], out, field, {"label": True, "fill": 300}, "0 to 255, got 300"),
        (heart_files["moving_label"], out, field, {"label": True, "fill": 0.5}, "got 0.5"),
        (moving, out, heart_files["fixed"], {}, "a displacement field has shape"),
        (moving, str(tmp_path / "out.xyz"), field, {}, "ends in none of"),
        (moving, str(tmp_path / "out.png"), field, {}, "a picture stores whole numbers in a plane"),
        (field, out, field, {}, "is a displacement field, not an image"),
        (tmp_path / "p.csv", str(tmp_path / "o.csv"), field, {}, "has the columns row, column"),
        (tmp_path / "p.csv", str(tmp_path / "o.csv"), field, {"points_frame": "mni"}, "'mni'"),
        (heart_files["fixed_landmarks"], str(tmp_path / "o.csv"), field, {"direction": "up"}, "direction must be"),
        (moving, out, field, {"label": True}, None),
    ):  # fmt: skip
        if message is None:
            warp(source, output, transforms, progress=False, **options)
            continue
        with pytest.raises(InputError, match=message):
            warp(source, output, transforms, progress=False, **options)
        assert not (tmp_path / "out.nii.gz").exists()
    left = {p.name for p in tmp_path.iterdir()} - {"out.nii.gz"}
    assert left == {"far.nii.gz", "plane.nii.gz", "away.txt", "p.csv"}  # no partial file


def test_fractional_numbers_are_not_labels(heart_files, tmp_path):
    image = nib.load(heart_files["moving"])
    nib.save(nib.Nifti1Image(image.get_fdata() / 7, image.affine), tmp_path / "real.nii.gz")
    with pytest.raises(InputError, match="not whole numbers"):
        warp(tmp_path / "real.nii.gz", tmp_path / "o.nii.gz", heart_files["true_ddf"], label=True, progress=False)


def test_a_forgotten_label_option_is_pointed_out(heart_files, tmp_path, caplog):
    warp(heart_files["moving"], tmp_path / "a.nii.gz", heart_files["true_ddf"], progress=False)
    assert not caplog.text
    warp(heart_files["moving_label"], tmp_path / "b.nii.gz", heart_files["true_ddf"], progress=False)
    assert "looks like a label map" in caplog.text


@pytest.mark.slow
def test_real_abdomen_equals_simpleitk(real_data, tmp_path):
    """Scans of two subjects, grids that differ, a strong smooth field, image and 13 labels."""
    folder = real_data / "abdomen_ct"
    fixed, moving = (folder / f"img{n}.nii.gz" for n in ("0002", "0001"))
    grid = read_volume(fixed).geometry
    ddf = smooth_field(grid.shape, 4.0)[0].numpy()
    write_field(tmp_path / "ddf.nii.gz", world_displacement(ddf, grid), grid)
    field = sitk.Cast(sitk.ReadImage(str(tmp_path / "ddf.nii.gz")), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(field)
    for source, label, kind in ((moving, False, sitk.sitkLinear), (folder / "label0001.nii.gz", True, None)):
        warp(source, tmp_path / "o.nii.gz", tmp_path / "ddf.nii.gz", label=label, reference=fixed, progress=False)
        itk = sitk.ReadImage(str(source))
        low = float(sitk.GetArrayViewFromImage(itk).min())
        there = sitk.Resample(itk, sitk.ReadImage(str(fixed)), transform, kind or sitk.sitkNearestNeighbor, low)
        there, here = sitk.GetArrayFromImage(there).T.astype(float), data(tmp_path / "o.nii.gz").astype(float)
        assert np.mean(np.abs(here - there) <= (0 if label else 1)) > 0.9995


def test_full_disk_leaves_the_old_file(heart_files, tmp_path, monkeypatch):
    out = tmp_path / "moved.nii.gz"
    out.write_text("old", encoding="utf-8")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(InputError, match=r"No space left on device.*nothing was replaced"):
        warp(heart_files["moving"], out, heart_files["true_ddf"], progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["moved.nii.gz"] and out.read_text(encoding="utf-8") == "old"


def test_beyond_the_field_nothing_is_displaced_and_a_warning_says_so(heart_files, tmp_path, caplog):
    image = nib.load(heart_files["fixed"])
    wide = Geometry((100, 64, 6), image.affine)
    nib.save(nib.Nifti1Image(np.zeros(wide.shape, np.uint8), wide.affine), tmp_path / "wide.nii.gz")
    warp(heart_files["moving"], tmp_path / "o.nii.gz", heart_files["true_ddf"], reference=tmp_path / "wide.nii.gz",
         progress=False)  # fmt: skip
    assert "reaches beyond the field" in caplog.text
    far = apply_affine(wide.affine, [[90.0, 30.0, 3.0]])
    np.testing.assert_allclose(map_points(read_chain(heart_files["true_ddf"]), far), far)


@pytest.mark.parametrize("suffix", [".png", ".nii.gz", ".nrrd"])
def test_pictures_of_two_values(tmp_path, suffix):
    values = np.random.default_rng(0).random((20, 16)) > 0.5
    Image.fromarray(values).save(tmp_path / "two.png")
    write_field(tmp_path / "ddf.nii.gz", np.zeros((16, 20, 3), np.float32), Geometry((16, 20), LPS.copy()))
    out = tmp_path / f"out{suffix}"
    warp(tmp_path / "two.png", out, tmp_path / "ddf.nii.gz", interpolation="nearest", progress=False)
    np.testing.assert_array_equal(read_volume(out).array[0].T, values * 255)


@pytest.mark.parametrize("kind", ["volume", "picture", "slice"])
def test_fields_in_itk_as_the_docs_say(bundle, heart_files, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    if kind == "volume":
        for role in ("moving", "fixed"):
            shutil.copy(heart_files[role], tmp_path / f"{role}.nii.gz")
        shutil.copy(heart_files["true_ddf"], tmp_path / "out" / "ddf.nii.gz")
    else:
        values = ndimage.gaussian_filter(np.random.default_rng(0).random((40, 50)), 3)
        values = (255 * (values - values.min()) / np.ptp(values)).astype(np.uint8)
        grid = Geometry((50, 40), LPS.copy()) if kind == "picture" else oblique((50, 40), (1.5, 1.2), 20)
        for role in ("moving", "fixed"):
            Image.fromarray(values).save(tmp_path / f"{role}.png")
            save_nifti(tmp_path / f"{role}.nii.gz", values.T.astype(np.float32), grid)
        u = world_displacement(smooth_field((50, 40), 2.0, 1)[0].numpy(), grid).astype(np.float32)
        write_field(tmp_path / "out" / "ddf.nii.gz", u, grid)
    suffix = ".png" if kind == "picture" else ".nii.gz"
    warp(f"moving{suffix}", f"moved{suffix}", "out", progress=False)
    here = sitk.GetArrayFromImage(sitk.ReadImage(f"moved{suffix}")).astype(float)
    if kind == "slice":
        compose("out", "field.h5")
        images = (sitk.ReadImage(f"{role}.nii.gz") for role in ("moving", "fixed"))
        there = sitk.Resample(*images, sitk.ReadTransform("field.h5"), sitk.sitkLinear)
    else:
        code = re.findall(r"```python\n(.*?)```", (bundle / "docs" / "fields.md").read_text(encoding="utf-8"), re.S)
        names: dict = {}
        exec(next(c for c in code if f"moving{suffix}" in c), names)
        there = names["moved"]
    there = sitk.GetArrayFromImage(there).astype(float)
    inside = there > 0
    assert inside.mean() > 0.5
    assert np.abs(here - there)[inside].mean() < 0.01 * np.ptp(here)
