"""The files of a result in other programs, as the table in docs/fields.md says; each needs that program's package.

    pip install antspyx itk-elastix slicerio napari
    python -m pytest -m slow tests/verbs/test_other_programs.py

Both grids are oblique and anisotropic and differ. The image is float, so that nothing is rounded.
"""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from scripts import compose, register, warp
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom
from scripts.data.segmentations import read_segmentation
from scripts.spatial.chain import Linear
from scripts.spatial.geometry import LPS, apply_affine
from scripts.spatial.transform_files import write_chain
from tests.conftest import rotation

pytestmark = pytest.mark.slow

FLIP = np.array([-1.0, -1.0, 1.0])  # RAS to LPS
FORMATS = ("out/ddf.nii.gz", "field.nrrd", "field.mha", "field.h5", "field.tfm", "field.mat")
IMAGES = FORMATS[:3]
CLOSE = 0.01  # the image has a range of about 900


@pytest.fixture(scope="module")
def ants():
    return pytest.importorskip("ants", reason="antspyx is not installed")


@pytest.fixture(scope="module")
def itk():
    found = pytest.importorskip("itk", reason="itk-elastix is not installed")
    if not hasattr(found, "transformix_filter"):
        pytest.skip("itk is installed without itk-elastix")
    return found


@pytest.fixture(scope="module")
def slicerio():
    return pytest.importorskip("slicerio", reason="slicerio is not installed")


@pytest.fixture(scope="module")
def viewer_model():
    pytest.importorskip("napari", reason="napari is not installed")
    from napari.components import ViewerModel

    return ViewerModel


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Folder of the inputs of a registration, its result ``out``, the field in all formats, and an affine."""
    folder = tmp_path_factory.mktemp("result")
    heart = cardiac_pair(
        3, (64, 64, 8), (2.6, 2.6, 9.0), orientation=rotation((1, 2, 3), 25),
        fixed_shape=(56, 60, 7), fixed_spacing=(2.9, 2.7, 10.0),
    )  # fmt: skip
    paths = write_phantom(folder, heart)
    for role in ("moving", "fixed"):
        nib.save(nib.Nifti1Image(getattr(heart, role), getattr(heart, f"{role}_affine")), paths[role])
    register(
        paths["moving"], paths["fixed"], str(folder / "out"), moving_label=paths["moving_label"],
        fixed_landmarks=paths["fixed_landmarks"], points_per_side=6, overview=False, device="cpu",
        **{"dense_settings#steps": 40},
    )  # fmt: skip
    for name in FORMATS[1:]:
        compose(folder / "out", folder / name)
    turn = np.eye(4)
    turn[:3, :3] = rotation((0, 1, 1), 8) * 1.03
    turn[:3, 3] = (2.0, -1.5, 1.0)
    for suffix in ("h5", "tfm", "mat", "txt"):
        write_chain(folder / f"affine.{suffix}", [Linear(turn)], None)
    chain = [str(folder / "out" / "ddf.nii.gz"), str(folder / "affine.tfm")]
    warp(paths["moving"], folder / "chained.nii.gz", chain, progress=False)
    warp(paths["moving"], folder / "turned.nii.gz", chain[1], reference=paths["fixed"], progress=False)
    return folder


def voxels(path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def points(path) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", skiprows=1)


def check_image(there: np.ndarray, path) -> None:
    """Equal wherever the moving image reaches; the phantom is positive, and outside the others write 0."""
    here = voxels(path)
    both = (there != 0) & (here != here.min())
    assert both.mean() > 0.8
    apart = np.abs(here - there)[both]
    assert apart.max() < CLOSE, apart.max()
    assert np.mean(both == (there != 0)) > 0.999


def check_points(there: np.ndarray, result) -> None:
    moved, fixed = points(result / "out" / "moved_landmarks.csv"), points(result / "fixed_landmarks.csv")
    assert np.linalg.norm(moved - fixed, axis=1).max() > 3
    np.testing.assert_allclose(there, moved, atol=1e-4)


def test_ants(ants, result):
    fixed, moving, label = (ants.image_read(str(result / f"{n}.nii.gz")) for n in ("fixed", "moving", "moving_label"))
    for name in FORMATS:
        check_image(ants.apply_transforms(fixed, moving, [str(result / name)]).numpy(), result / "out" / "moved.nii.gz")
    for suffix in ("h5", "tfm", "mat", "txt"):
        chain = [str(result / "out" / "ddf.nii.gz"), str(result / f"affine.{suffix}")]
        check_image(ants.apply_transforms(fixed, moving, chain).numpy(), result / "chained.nii.gz")
    there = ants.apply_transforms(
        fixed, label, [str(result / "out" / "ddf.nii.gz")], interpolator="nearestNeighbor"
    ).numpy()
    np.testing.assert_array_equal(there, voxels(result / "out" / "moved_label.nii.gz"))
    pandas = pytest.importorskip("pandas")
    marks = pandas.DataFrame(points(result / "fixed_landmarks.csv") * FLIP, columns=["x", "y", "z"])
    for name in (FORMATS[0], "field.h5"):
        there = ants.apply_transforms_to_points(3, marks, [str(result / name)])[["x", "y", "z"]].to_numpy()
        check_points(there * FLIP, result)


@pytest.fixture(scope="module")
def examples(bundle):
    """The example of docs/fields.md that contains a word found in no other."""
    code = re.findall(r"```python\n(.*?)```", (bundle / "docs" / "fields.md").read_text(encoding="utf-8"), re.S)
    return {word: next(c for c in code if word in c) for word in ("field.txt", "napari")}


@pytest.fixture
def parameters(itk, result, examples, monkeypatch):
    """Makes a parameter object from the documented file, with some lines changed."""
    monkeypatch.chdir(result)
    exec(examples["field.txt"], {})

    def make(**changes):
        read, made = itk.ParameterObject.New(), itk.ParameterObject.New()
        read.ReadParameterFile("field.txt")
        made.AddParameterMap(dict(read.GetParameterMap(0)) | {k: [str(v)] for k, v in changes.items()})
        return made

    return make


def test_transformix(itk, result, parameters):
    moving = itk.imread(str(result / "moving.nii.gz"), itk.F)

    def through(chosen):
        return itk.array_from_image(itk.transformix_filter(moving, transform_parameter_object=chosen)).T

    for name in IMAGES:
        check_image(through(parameters(DeformationFieldFileName=result / name)), result / "out" / "moved.nii.gz")
    for suffix in ("h5", "tfm", "mat", "txt"):
        chosen = parameters(Transform="File", TransformFileName=result / f"affine.{suffix}")
        check_image(through(chosen), result / "turned.nii.gz")
    # elastix has no component for an ITK field; Python passes it as an external transform.
    for name in FORMATS[3:]:
        call = itk.TransformixFilter[type(moving)].New()
        call.SetMovingImage(moving)
        call.SetTransformParameterObject(parameters(Transform="TranslationTransform"))
        call.SetExternalTransform(itk.transformread(str(result / name))[0])
        call.Update()
        check_image(itk.array_from_image(call.GetOutput()).T, result / "out" / "moved.nii.gz")


def test_transformix_points(itk, result, parameters):
    moving = itk.imread(str(result / "moving.nii.gz"), itk.F)
    marks = points(result / "fixed_landmarks.csv") * FLIP
    lines = ["point", str(len(marks)), *(" ".join(f"{v:.6f}" for v in p) for p in marks)]
    (result / "points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    call = itk.TransformixFilter[type(moving)].New()
    call.SetMovingImage(moving)
    call.SetTransformParameterObject(parameters())
    call.SetFixedPointSetFileName(str(result / "points.txt"))
    call.SetOutputDirectory(str(result))
    call.Update()
    text = (result / "outputpoints.txt").read_text(encoding="utf-8")
    found = [[float(v) for v in p.split()] for p in re.findall(r"OutputPoint = \[ (.*?) \]", text)]
    check_points(np.array(found) * FLIP, result)


@pytest.mark.parametrize("role", ["moving", "fixed"])
def test_slicer_segments(slicerio, result, role):
    """slicerio, by Slicer's authors, checks files against what Slicer itself writes."""
    path = result / "out" / f"{role}_rois.seg.nrrd"
    ours, theirs = read_segmentation(path), slicerio.read_segmentation(str(path))
    assert len(ours.layers) > 1 and len(theirs["segments"]) == len(ours.segments) > 5
    np.testing.assert_allclose(theirs["ijkToLPS"], LPS @ ours.geometry.affine, atol=1e-9)
    for k, (mine, there) in enumerate(zip(ours.segments, theirs["segments"], strict=True)):
        assert there["name"] == mine.name and there["color"] == pytest.approx(mine.colour, abs=1e-4)
        layer = theirs["voxels"][there["layer"]]
        np.testing.assert_array_equal(layer == there["labelValue"], ours.mask(k))


def test_slicer_field_and_landmarks(slicerio, result):
    """The field as Slicer hardens it (slicerio), and its readers, which are ITK's (SimpleITK)."""
    images = {n: sitk.ReadImage(str(result / f"{n}.nii.gz")) for n in ("fixed", "moving")}
    for name, image in images.items():
        sitk.WriteImage(image, str(result / f"{name}.nrrd"))
    fixed, moving, field = (slicerio.read_volume(str(result / f"{n}.nrrd")) for n in ("fixed", "moving", "field"))
    there = slicerio.apply_displacement_field(moving, field, reference=fixed)["voxels"]
    check_image(there, result / "out" / "moved.nii.gz")
    for name in FORMATS:
        path = str(result / name)
        if name in IMAGES:
            transform = sitk.DisplacementFieldTransform(sitk.Cast(sitk.ReadImage(path), sitk.sitkVectorFloat64))
        else:
            transform = sitk.ReadTransform(path)
        moved = sitk.Resample(images["moving"], images["fixed"], transform, sitk.sitkLinear)
        check_image(sitk.GetArrayFromImage(moved).T, result / "out" / "moved.nii.gz")
    warp(result / "fixed_landmarks.csv", result / "there.fcsv", result / "out", points_frame="ras")
    (markups,) = slicerio.read_markups_fcsv(str(result / "there.fcsv"))["markups"]
    found = np.array([p["position"] for p in markups["controlPoints"]], float)
    check_points(found * (FLIP if markups["coordinateSystem"] == "LPS" else 1), result)


def test_itk_snap(itk, result):
    """ITK-SNAP opens images with ITK's readers: grids, label maps and the components of a vector image."""
    fixed = itk.imread(str(result / "fixed.nii.gz"))
    for name in ("out/moved.nii.gz", "out/moved_label.nii.gz", "out/fixed_rois.nii.gz"):
        image = itk.imread(str(result / name))
        assert image.GetLargestPossibleRegion().GetSize() == fixed.GetLargestPossibleRegion().GetSize()
        for what in ("GetOrigin", "GetSpacing", "GetDirection"):
            here, there = (np.asarray(getattr(i, what)()) for i in (image, fixed))
            np.testing.assert_allclose(here, there, atol=1e-4)
        np.testing.assert_array_equal(itk.array_from_image(image).T, voxels(result / name))
    layers = len(read_segmentation(result / "out" / "fixed_rois.seg.nrrd").layers)
    for name, components in ((FORMATS[0], 3), ("field.nrrd", 3), ("out/fixed_rois.seg.nrrd", layers)):
        reader = itk.ImageIOFactory.CreateImageIO(str(result / name), itk.CommonEnums.IOFileMode_ReadMode)
        reader.SetFileName(str(result / name))
        reader.ReadImageInformation()
        assert (reader.GetNumberOfDimensions(), reader.GetNumberOfComponents()) == (3, components)


def test_napari(viewer_model, result, examples, monkeypatch):
    """The layers of docs/fields.md, in napari's model of a viewer, which needs no window."""
    import napari

    monkeypatch.chdir(result)
    monkeypatch.setattr(napari, "Viewer", viewer_model, raising=False)
    names: dict = {}
    exec(examples["napari"], names)
    layers = names["viewer"].layers
    label = names["viewer"].add_labels(voxels("fixed_label.nii.gz"), scale=names["scale"])
    for name in ("moved", "moved label"):
        np.testing.assert_allclose(layers[name].extent.world, label.extent.world)
    values, marks = [], layers["landmarks"]
    for mark in marks.data:
        place = marks.data_to_world(mark)
        names["viewer"].dims.set_point(range(3), place)  # a value belongs to the displayed slice
        values.append(label.get_value(tuple(place), world=True))
    assert min(values) > 0 and len(set(values)) > 1  # the phantom's landmarks are voxels of its structures
    # An arrow that starts at the voxel of a landmark ends at its moved place.
    ends = {tuple(arrow[0].astype(int)): arrow.sum(axis=0) for arrow in layers["field"].data}
    found = np.array([ends[tuple(np.rint(mark).astype(int))] for mark in marks.data])
    check_points(apply_affine(nib.load("out/moved.nii.gz").affine, found), result)
