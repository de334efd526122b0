"""Transform files: ours read by ITK and ANTs, theirs read here, Learn2Reg by its own rule; and what is refused."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from scripts.common.errors import InputError
from scripts.spatial.chain import Field, Linear, map_points
from scripts.spatial.geometry import Geometry, apply_affine
from scripts.spatial.itk_transforms import to_itk
from scripts.spatial.learn2reg import write_learn2reg
from scripts.spatial.resampling import resample_image
from scripts.spatial.transform_files import as_field, read_chain, transform_names, write_chain
from tests.conftest import oblique
from tests.spatial.test_chain import FIXED, MOVING, affine_step, chains
from tests.spatial.test_geometry import to_itk as to_itk_image
from tests.spatial.test_geometry import volume

POINTS = apply_affine(FIXED.affine, np.array([[3, 4, 5], [10, 12, 7], [15, 18, 9]]))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".h5", ".tfm", ".mat"])
def test_fields_round_trip_and_itk_reads_them(tmp_path, suffix):
    steps = chains()["field, affine"]
    path = tmp_path / f"field{suffix}"
    write_chain(path, steps, FIXED)
    (read,) = read_chain(path)
    np.testing.assert_allclose(read.grid.affine, FIXED.affine, atol=1e-4)
    np.testing.assert_allclose(map_points([read], POINTS), map_points(steps, POINTS), atol=1e-3)
    if suffix in (".h5", ".tfm", ".mat"):
        transform = sitk.ReadTransform(str(path))
    else:
        transform = sitk.DisplacementFieldTransform(sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkVectorFloat64))
    lps = np.diag([-1.0, -1.0, 1.0])
    there = np.array([transform.TransformPoint((lps @ p).tolist()) for p in POINTS]) @ lps
    np.testing.assert_allclose(there, map_points(steps, POINTS), atol=1e-3)


def test_both_intents(tmp_path):
    steps = chains()["field"]
    for intent in (1007, 1006):
        write_chain(tmp_path / f"{intent}.nii.gz", steps, FIXED, intent=intent)
        assert int(nib.load(tmp_path / f"{intent}.nii.gz").header["intent_code"]) == intent
    a, b = (read_chain(tmp_path / f"{i}.nii.gz")[0].u_lps for i in (1007, 1006))
    np.testing.assert_array_equal(a, b)
    # ITK turns intent 1006 into its own frame on reading.
    itk = [sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{i}.nii.gz"))) for i in (1007, 1006)]
    np.testing.assert_allclose(*itk, atol=1e-6)


@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".mat", ".txt"])
def test_affines_stay_affine(tmp_path, suffix):
    steps = [affine_step(), Linear(np.diag([2.0, 1.0, 0.5, 1.0]))]
    write_chain(tmp_path / f"a{suffix}", steps, None)
    (read,) = read_chain(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(read.matrix, steps[1].matrix @ steps[0].matrix, atol=1e-9)
    (back,) = read_chain(f"inverse:{tmp_path / f'a{suffix}'}")
    np.testing.assert_allclose(back.matrix @ read.matrix, np.eye(4), atol=1e-9)


def test_composites_of_simpleitk_are_read_in_its_order(tmp_path):
    steps = chains()["field, affine, field"]
    transform = to_itk(steps)
    assert isinstance(transform, sitk.CompositeTransform)
    sitk.WriteTransform(transform, str(tmp_path / "c.h5"))
    read = read_chain(tmp_path / "c.h5")
    assert [type(s) for s in read] == [Field, Linear, Field]
    np.testing.assert_allclose(map_points(read, POINTS), map_points(steps, POINTS), atol=1e-4)


def test_bsplines_are_read_on_a_grid(tmp_path):
    image = to_itk_image(np.zeros(FIXED.shape, np.float32), FIXED)
    spline = sitk.BSplineTransformInitializer(image, [4, 4, 4])
    spline.SetParameters(np.random.default_rng(0).normal(0, 3, len(spline.GetParameters())).tolist())
    both = sitk.CompositeTransform([to_itk([affine_step()]), spline])
    sitk.WriteTransform(both, str(tmp_path / "spline.tfm"))
    with pytest.raises(InputError, match="BSplineTransform can only be read on a grid"):
        read_chain(tmp_path / "spline.tfm")
    steps = read_chain(tmp_path / "spline.tfm", FIXED)
    lps = np.diag([-1.0, -1.0, 1.0])
    there = np.array([both.TransformPoint((lps @ p).tolist()) for p in POINTS]) @ lps
    np.testing.assert_allclose(map_points(steps, POINTS), there, atol=1e-3)


def test_matrix_in_text_and_lists(tmp_path):
    np.savetxt(tmp_path / "a.txt", affine_step().matrix, encoding="utf-8-sig")
    write_chain(tmp_path / "f.nii.gz", chains()["field"], FIXED)
    steps = read_chain(f"{tmp_path / 'f.nii.gz'},{tmp_path / 'a.txt'}")
    assert [type(s) for s in steps] == [Field, Linear]
    np.testing.assert_allclose(map_points(steps, POINTS), map_points(chains()["field, affine"], POINTS), atol=1e-4)
    assert transform_names("[a.nii.gz, b.h5]") == ["a.nii.gz", "b.h5"]
    (tmp_path / "result").mkdir()
    write_chain(tmp_path / "result" / "ddf.nii.gz", chains()["field"], FIXED)
    assert isinstance(read_chain(str(tmp_path / "result"))[0], Field)


def test_a_chain_becomes_one_field_on_any_grid():
    other = oblique((31, 22, 17), (1.2, 1.7, 2.5), 5, (5.0, -8.0, 3.0))
    steps = chains()["field, affine, field"]
    field = as_field(steps, other)
    nodes = apply_affine(other.affine, np.array([[12, 9, 8], [15, 11, 10]]))
    np.testing.assert_allclose(map_points([field], nodes), map_points(steps, nodes), atol=1e-3)


@pytest.mark.parametrize(("ending", "layout"), [("nii.gz", "last"), ("npz", "last"), ("npz", "first")])
def test_learn2reg_moves_labels_as_its_evaluation_does(tmp_path, ending, layout):
    steps, path = chains()["field, affine"], tmp_path / f"disp_0001_0002.{ending}"
    write_learn2reg(path, steps, FIXED, MOVING, layout)
    labels = np.round(np.abs(volume(MOVING)) * 4).astype(np.uint8)
    if ending == "npz":
        disp = np.load(path)["arr_0"].astype(np.float32)
        assert disp.dtype == np.float32 and disp.shape == (
            (3, *FIXED.shape) if layout == "first" else (*FIXED.shape, 3)
        )
        disp = disp if layout == "first" else np.moveaxis(disp, -1, 0)
    else:
        disp = np.moveaxis(nib.load(path).get_fdata(), -1, 0)
    # The line of the challenge's evaluation code.
    index = np.stack(np.meshgrid(*[np.arange(s) for s in FIXED.shape], indexing="ij"))
    theirs = ndimage.map_coordinates(labels, index + disp, order=0)
    ours, _ = resample_image(labels[None], MOVING, FIXED, steps, interpolation="nearest", fill=0)
    # map_coordinates ends at the last voxel centre, we half a voxel beyond; half precision moves some borders.
    inside = ((index + disp > 0) & (index + disp < np.array(MOVING.shape)[:, None, None, None] - 1)).all(axis=0)
    assert inside.mean() > 0.3
    assert (ours[0] == theirs)[inside].mean() > (0.99 if layout == "first" else 0.999)
    read = read_chain(path, FIXED, MOVING, learn2reg=True)
    np.testing.assert_allclose(map_points(read, POINTS), map_points(steps, POINTS), atol=0.05)


def test_learn2reg_at_half_resolution(tmp_path):
    grid = Geometry((20, 24, 14), np.diag([2.0, 2.0, 2.0, 1.0]))
    half = np.zeros((3, 10, 12, 7), np.float16)
    half[1] = 1.5
    np.savez(tmp_path / "disp_0001_0002.npz", half)
    (field,) = read_chain(tmp_path / "disp_0001_0002.npz", grid)
    np.testing.assert_allclose(field.u_lps[..., 1], -3.0, atol=1e-3)  # 1.5 voxels of the full grid, whatever the file's
    with pytest.raises(InputError, match="neither the fixed grid"):
        read_chain(tmp_path / "disp_0001_0002.npz", MOVING)


def test_unreadable_files(tmp_path):
    write_chain(tmp_path / "f.nii.gz", chains()["field"], FIXED)
    np.savez_compressed(tmp_path / "d.npz", np.random.default_rng(0).normal(size=(3, *FIXED.shape)))
    image = nib.load(tmp_path / "f.nii.gz")
    image.header.set_intent(0)
    nib.save(image, tmp_path / "none.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4)), tmp_path / "image.nii.gz")
    (tmp_path / "junk.h5").write_bytes(b"no transform")
    (tmp_path / "junk.mat").write_bytes(b"no transform")
    np.savetxt(tmp_path / "three.txt", np.eye(3))
    for name in ("f.nii.gz", "d.npz"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / f"short_{name}").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "short.nii").write_bytes(gzip.decompress((tmp_path / "f.nii.gz").read_bytes())[:5000])
    sitk.WriteImage(to_itk_image(volume(FIXED), FIXED), str(tmp_path / "scalar.nrrd"))
    for name, message in {
        "none.nii.gz": "NIfTI intent 0; a field needs 1007",
        "image.nii.gz": r"shape \(4, 4, 4\); a displacement field has shape",
        "junk.h5": "cannot be read as an ITK transform",
        "junk.mat": "cannot be read as an ITK transform",
        "three.txt": r"numbers of shape \(3, 3\); an affine is 4 x 4",
        "short_f.nii.gz": "cannot be read .*truncated",
        "short.nii": "cannot be read .*truncated",
        "short_d.npz": "cannot be read .*truncated",
        "scalar.nrrd": "1 components per voxel",
        "gone.h5": "gone.h5 does not exist",
        "f.xyz": "does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            read_chain(tmp_path / name, FIXED)
    with pytest.raises(InputError, match="give the fixed image"):
        read_chain(tmp_path / "d.npz")
    with pytest.raises(InputError, match="only affines can be inverted here"):
        read_chain(f"inverse:{tmp_path / 'f.nii.gz'}")
    with pytest.raises(InputError, match=r"ends in none of .nii"):
        write_chain(tmp_path / "f.xyz", [affine_step()], None)
    with pytest.raises(InputError, match="a field needs a grid"):
        write_chain(tmp_path / "g.nii.gz", [affine_step()], None)
    for wrong in (None, 5, {"a.h5": 1}, ["a.h5", None]):
        with pytest.raises(InputError, match="Transforms must be files, got"):
            read_chain(wrong)
    with pytest.raises(InputError, match="No transform"):
        read_chain("")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"srow_x": [np.nan, 0, 0, 0], "sform_code": 1}, "has an affine that is not finite"),
        ({"srow_x": [3e38, 0, 0, 0], "sform_code": 1}, "has an affine that is not finite"),
        ({"intent_code": 1005}, "intent 1005; a field needs 1007"),
    ],
)
def test_fields_with_impossible_headers(tmp_path, change, message):
    """Such a field would move everything out of sight without an error."""
    write_chain(tmp_path / "field.nii", chains()["field"], FIXED)
    image = nib.load(tmp_path / "field.nii")
    for key, value in change.items():
        image.header[key] = value
    # nibabel writes the affine over the header, so the bytes are put together by hand.
    path = tmp_path / "changed.nii"
    path.write_bytes(image.header.binaryblock + b"\0" * 4 + np.asarray(image.dataobj).tobytes(order="F"))
    with pytest.raises(InputError, match=message):
        read_chain(path)


def test_displacements_that_are_not_numbers(tmp_path):
    write_chain(tmp_path / "field.mha", chains()["field"], FIXED)
    image = sitk.ReadImage(str(tmp_path / "field.mha"))
    array = sitk.GetArrayFromImage(image)
    array[2, 3, 4, 1] = np.nan
    broken = sitk.GetImageFromArray(array, isVector=True)
    broken.CopyInformation(image)
    for name in ("f.mha", "f.nrrd"):
        sitk.WriteImage(broken, str(tmp_path / name))
        with pytest.raises(InputError, match="displacements that are NaN"):
            read_chain(tmp_path / name)


def test_ants_applies_our_field_and_we_apply_its_files(tmp_path):
    ants = pytest.importorskip("ants", reason="antspyx is not installed")
    steps, image = chains()["field, affine"], volume(MOVING)
    write_chain(tmp_path / "field.nii.gz", [steps[0]], FIXED)
    write_chain(tmp_path / "affine.mat", [steps[1]], None)
    write_chain(tmp_path / "one.nii.gz", steps, FIXED)
    sitk.WriteImage(to_itk_image(image, MOVING), str(tmp_path / "moving.nii.gz"))
    sitk.WriteImage(to_itk_image(np.zeros(FIXED.shape, np.float32), FIXED), str(tmp_path / "fixed.nii.gz"))
    fixed, moving = (ants.image_read(str(tmp_path / f"{n}.nii.gz")) for n in ("fixed", "moving"))
    here, _ = resample_image(image[None], MOVING, FIXED, steps, fill=0)
    inside = here[0] != 0
    assert inside.mean() > 0.2
    for names in (["field.nii.gz", "affine.mat"], ["one.nii.gz"]):
        files = [str(tmp_path / n) for n in names]
        there = ants.apply_transforms(fixed, moving, files, interpolator="linear").numpy()
        both = inside & (there != 0)
        assert both.sum() > 0.97 * inside.sum()
        assert np.mean(np.abs(here[0] - there)[both] < 1e-3) > 0.995
        ours, _ = resample_image(image[None], MOVING, FIXED, read_chain(files), fill=0)
        np.testing.assert_allclose(ours, here, atol=2e-3)
    # Composed and written by ANTs.
    made = ants.apply_transforms(fixed, moving, files, compose=str(tmp_path / "ants_"))
    theirs, _ = resample_image(image[None], MOVING, FIXED, read_chain(made), fill=0)
    assert np.mean(np.abs(theirs - here)[0][inside] < 2e-3) > 0.99
    rigid = ants.create_ants_transform("AffineTransform", dimension=3, center=(1, 2, 3), translation=(4, 5, 6))
    ants.write_transform(rigid, str(tmp_path / "ants.mat"))
    (read,) = read_chain(tmp_path / "ants.mat")
    lps = np.diag([-1.0, -1.0, 1.0])
    np.testing.assert_allclose(
        map_points([read], POINTS), [lps @ rigid.apply_to_point((lps @ p).tolist()) for p in POINTS], atol=1e-4
    )
