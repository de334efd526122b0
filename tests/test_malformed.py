"""400 files damaged by a seeded fuzzer, given to every verb that reads files: read, or refused in one sentence."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from scripts import compose, evaluate, invert, warp
from scripts.common.errors import InputError
from scripts.data.images import LoadVolume, image_items
from scripts.data.pair import LoadPair
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom
from scripts.data.structures import AddMasks
from scripts.masks.files import FilesSource
from scripts.spatial.chain import Linear
from scripts.spatial.landmark_files import Landmarks, write_landmark_file
from scripts.spatial.transform_files import read_chain, write_chain
from scripts.workflow.cohort.pairs import read_entries
from tests.malformed import damaged

INPUTS, LONGEST_S = 400, 20
FIELDS = ("field.nii.gz", "field.nrrd", "field.mha", "field.h5", "field.tfm", "field.npz")
AFFINES = ("affine.mat", "affine.tfm", "affine.txt", "affine.h5", "matrix.txt")
IMAGES = ("moving.nii.gz", "moving.nii.gz", "moving.nii.gz", "moving.mha", "moving.nrrd", "moving.png")
POINTS = ("points.csv", "points.fcsv", "points.mrk.json")
RESULTS = ("out.nii.gz", "out.h5", "out.nrrd", "out.tfm", "out.mat", "out.npz")

Job = Callable[[Path, Path, random.Random], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A folder with one sound file of every kind."""
    folder = tmp_path_factory.mktemp("good")
    pair = cardiac_pair(3, (24, 22, 5), (6.0, 6.0, 12.0))
    files = write_phantom(folder, pair)
    field = read_chain(files["true_ddf"])
    grid = field[0].grid
    shift = np.eye(4)
    shift[:3, 3], shift[0, 1] = (1, 2, 3), 0.02
    for name in FIELDS:
        write_chain(folder / name, field, grid, grid)
    for name in AFFINES[:-1]:
        write_chain(folder / name, [Linear(shift)], grid)
    np.savetxt(folder / "matrix.txt", shift)
    for name in POINTS:
        write_landmark_file(folder / name, Landmarks(pair.moving_landmarks, ["a"] * len(pair.moving_landmarks)))
    for name in ("moving.mha", "moving.nrrd"):
        sitk.WriteImage(sitk.ReadImage(files["moving"]), str(folder / name))
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(folder / "moving.png")
    case = {"name": "a", "transforms": "field.nii.gz"}
    case |= {f"{role}_label": files[f"{role}_label"] for role in ("moving", "fixed")}
    (folder / "cases.json").write_text(json.dumps([case]))
    (folder / "cases.csv").write_text(",".join(case) + "\n" + ",".join(case.values()) + "\n")
    (folder / "pairs.json").write_text(json.dumps([{"moving": "a", "fixed": "b", "moving_frame": 0}]))
    (folder / "images.json").write_text(json.dumps([files["moving"]]))
    (folder / "names.json").write_text(json.dumps({"1": "a"}))
    (folder / "correspondence.json").write_text(json.dumps({"initial_transform_ras_mm": shift.tolist(), "x": [1]}))
    return folder


def jobs(good: Path) -> dict[str, tuple[tuple[str, ...], Job]]:
    """What is damaged, and who reads it; a job gets the damaged file, an empty folder for results, and chance."""
    moving, fixed, field = (str(good / f"{name}.nii.gz") for name in ("moving", "fixed", "field"))
    label, target = (str(good / f"{role}_label.nii.gz") for role in ("moving", "fixed"))
    labels = {"moving_label": label, "fixed_label": target}

    def load(key: str) -> Job:
        def job(path: Path, out: Path, chance: random.Random) -> object:
            init = str(path) if key == "init" else "none"
            item = {"moving": moving, "fixed": fixed} | ({} if key == "init" else {key: str(path)})
            return AddMasks(["a", "b", "c"])(LoadPair(init=init)(item))

        return job

    def masks(images: str | Path, pattern: str) -> object:
        data = LoadVolume()(image_items(str(images))[0])
        if "error" in data:
            raise data["error"]
        return FilesSource(pattern, {"a": 1, "b": 2})(data["volume"], "a,b")

    def result_folder(path: Path, out: Path, chance: random.Random) -> object:
        (path.parent / "ddf.nii.gz").write_bytes(Path(field).read_bytes())
        return evaluate(output_dir=out / "e", transforms=str(path.parent), **labels, progress=False)

    def result(out: Path, chance: random.Random) -> Path:
        return out / chance.choice(RESULTS)

    quiet = {"progress": False}
    return {
        "register moving": (IMAGES, load("moving")),
        "register fixed": (IMAGES, load("fixed")),
        "register label": (("moving_label.nii.gz",), load("moving_label")),
        "register mask": (("moving_label.nii.gz",), load("moving_mask")),
        "register points": (POINTS, load("moving_landmarks")),
        "register init": (AFFINES, load("init")),
        "register list": (("pairs.json",), lambda p, out, c: read_entries(p, ["moving", "fixed", "moving_frame"])),
        "masks": (IMAGES, lambda p, out, c: masks(p, label)),
        "masks label": (("moving_label.nii.gz",), lambda p, out, c: masks(moving, str(p))),
        "masks list": (("images.json",), lambda p, out, c: masks(p, label)),
        "warp": (IMAGES, lambda p, out, c: warp(p, out / "o.nii.gz", field, **quiet)),
        "warp label": (
            ("moving_label.nii.gz",),
            lambda p, out, c: warp(p, out / "o.nii.gz", field, label=True, **quiet),
        ),
        "warp points": (POINTS, lambda p, out, c: warp(p, out / "o.csv", field, **quiet)),
        "warp reference": (IMAGES, lambda p, out, c: warp(moving, out / "o.nii.gz", field, reference=p, **quiet)),
        "warp field": (FIELDS + AFFINES, lambda p, out, c: warp(moving, out / "o.nii.gz", p, reference=fixed, **quiet)),
        "invert": (FIELDS + AFFINES, lambda p, out, c: invert(p, result(out, c), moving, fixed, **quiet)),
        "invert moving": (IMAGES, lambda p, out, c: invert(field, result(out, c), p, **quiet)),
        "compose": (FIELDS + AFFINES, lambda p, out, c: compose([p, field], result(out, c), fixed)),
        "compose reference": (IMAGES, lambda p, out, c: compose([field], result(out, c), p)),
        "evaluate": (FIELDS + AFFINES, lambda p, out, c: evaluate(None, out / "e", p, **labels, **quiet)),
        "evaluate label": (
            ("moving_label.nii.gz",),
            lambda p, out, c: evaluate(None, out / "e", field, **labels | {"moving_label": str(p)}, **quiet),
        ),
        "evaluate points": (
            POINTS,
            lambda p, out, c: evaluate(
                None, out / "e", field, moving_landmarks=str(p), fixed_landmarks=str(good / "points.csv"), **quiet
            ),
        ),
        "evaluate cases": (("cases.csv", "cases.json"), lambda p, out, c: evaluate(p, out / "e", **quiet)),
        "evaluate names": (
            ("names.json",),
            lambda p, out, c: evaluate(None, out / "e", field, **labels, names=p, **quiet),
        ),
        "evaluate result": (("correspondence.json",), result_folder),
    }


def hang(*_) -> None:
    raise TimeoutError(f"took longer than {LONGEST_S} s")


def test_damaged_files_are_read_or_refused(good, tmp_path, capfd):
    """Neither a traceback nor a hang; after a refusal no output; nothing but Python's own words on the terminal."""
    table = jobs(good)
    names, outcomes = list(table), Counter()
    before = signal.signal(signal.SIGALRM, hang)
    try:
        for seed in range(INPUTS):
            chance = random.Random(seed)
            what = names[seed % len(names)]
            sources, job = table[what]
            source = good / chance.choice(sources)
            place, out = tmp_path / f"bad{seed}", tmp_path / f"out{seed}"
            place.mkdir()
            out.mkdir()
            way = damaged(source, place / source.name, chance)
            signal.alarm(LONGEST_S)
            try:
                job(place / source.name, out, chance)
                outcomes["read"] += 1
            except InputError as error:
                outcomes["refused"] += 1
                assert len(str(error)) > 10 and "\n" not in str(error), (seed, what, way)
                assert not [p for p in out.rglob("*") if p.is_file() or p.name.startswith(".")], (seed, what, way)
            except Exception as error:
                pytest.fail(f"seed {seed}: {what} of {source.name}, {way}: {type(error).__name__}: {error}")
            finally:
                signal.alarm(0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert min(outcomes["read"], outcomes["refused"]) > INPUTS // 8, outcomes
    said = capfd.readouterr().err
    assert "HDF5-DIAG" not in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"srow_x": [np.nan, 0, 0, 0], "sform_code": 1}, "has an affine that is not finite"),
        ({"srow_x": [3e38, 0, 0, 0], "sform_code": 1}, "has an affine that is not finite"),
        ({"intent_code": 1005}, "intent 1005; a field needs 1007"),
    ],
)
def test_fields_with_impossible_headers(good, tmp_path, change, message):
    """Such a field would move everything out of sight without a word."""
    image = nib.load(good / "field.nii.gz")
    for key, value in change.items():
        image.header[key] = value
    # nibabel writes the affine over the header, so the bytes are put together by hand.
    path = tmp_path / "field.nii"
    path.write_bytes(image.header.binaryblock + b"\0" * 4 + np.asarray(image.dataobj).tobytes(order="F"))
    with pytest.raises(InputError, match=message):
        read_chain(path)


def test_displacements_that_are_no_numbers(good, tmp_path):
    image = sitk.ReadImage(str(good / "field.mha"))
    array = sitk.GetArrayFromImage(image)
    array[2, 3, 4, 1] = np.nan
    broken = sitk.GetImageFromArray(array, isVector=True)
    broken.CopyInformation(image)
    for name in ("f.mha", "f.nrrd"):
        sitk.WriteImage(broken, str(tmp_path / name))
        with pytest.raises(InputError, match="displacements that are NaN"):
            read_chain(tmp_path / name)
