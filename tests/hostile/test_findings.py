"""What hostile inputs once broke, each on its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts import compose, evaluate, invert, register, warp
from scripts.common.errors import InputError
from scripts.common.lock import locked
from scripts.spatial.files import load_array, readable, size_limit

from .attacks import Attack
from .fuzz import run
from .inputs import QUICK

TINY_GB = 1e-6


def words_of(good: Path, out: Path, command: str, **options: object) -> Attack:
    sound = {
        "register": {"moving": good / "moving.nii.gz", "fixed": good / "fixed.nii.gz", "output_dir": out, **QUICK},
        "masks": {
            "images": good / "moving.nii.gz", "names": "a,b", "source": f"files:{good / 'moving_label.nii.gz'}",
            "values": {"a": 1, "b": 2}, "output_dir": out, "progress": False,
        },
        "correspond": {
            "moving": good / "moving.nii.gz", "fixed": good / "fixed.nii.gz", "output_dir": out, "points": [[0, 0, 0]],
            "labels": [1], **QUICK,
        },
    }[command]  # fmt: skip
    return Attack("", command, {**sound, **options}, good, good)


def refused(call: Attack, sentence: str) -> None:
    """The call ends with exit code 1 and one line that contains the sentence."""
    code, _, errors = run(call)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 1 and len(lines) == 1 and sentence in lines[0], errors[-2000:]


@pytest.mark.parametrize(
    ("command", "option", "value", "sentence"),
    [
        ("register", "matching", "@nothing", "--matching '@nothing' cannot be evaluated"),
        ("register", "matching", "$1/0", "cannot be evaluated (division by zero)"),
        ("register", "diffeomorphic", "%x", "--diffeomorphic '%x' cannot be evaluated"),
        ("register", "moving", "a\nb", r"a\nb does not exist"),
        ("register", "max_image_gb", TINY_GB, "or raise --max_image_gb"),
        ("register", "max_image_gb", 0, "max_image_gb must be a positive number, got 0"),
        ("correspond", "max_image_gb", TINY_GB, "or raise --max_image_gb"),
        ("masks", "max_image_gb", TINY_GB, "or raise --max_image_gb"),
        ("masks", "source_options", "cuda:7", "must be given by name, got 'cuda:7'"),
        ("masks", "names", "1", "Names must be words"),
    ],
)
def test_options(good, tmp_path, command, option, value, sentence):
    refused(words_of(good, tmp_path / "out", command, **{option: value}), sentence)
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_a_plan_refuses_expressions_too(good, tmp_path):
    with pytest.raises(InputError, match="--matching '@nothing' cannot be evaluated"):
        register(good / "moving.nii.gz", good / "fixed.nii.gz", tmp_path, dry_run=True, matching="@nothing")


@pytest.mark.parametrize("structures", [[[]], ["a"], 3, "12"])
def test_structures_that_are_no_labels(good, tmp_path, structures):
    with pytest.raises(InputError, match="structures must be a list of label values"):
        evaluate(None, tmp_path / "out", good / "field.nii.gz", structures=structures, progress=False)


def test_a_record_of_masks_with_other_values_is_made_again(good, tmp_path):
    out = shutil.copytree(good / "masked", tmp_path / "out")
    record = json.loads((out / "moving_masks.json").read_text(encoding="utf-8"))
    (out / "moving_masks.json").write_text(json.dumps(record | {"ml": []}), encoding="utf-8")
    code, said, errors = run(words_of(good, out, "masks"))
    assert code == 0 and "Traceback" not in said + errors
    again = json.loads((out / "moving_masks.json").read_text(encoding="utf-8"))
    assert again["ml"] == record["ml"] and again["sha256"] == record["sha256"]


@pytest.mark.parametrize("text", ["moving.nii.gz\n\0x\n", "moving.nii.gz\n" + "a" * 5000 + "\n"])
def test_a_list_of_images_with_a_name_that_no_file_can_have(good, tmp_path, text):
    shutil.copy(good / "moving.nii.gz", tmp_path)
    (tmp_path / "images.txt").write_text(text, encoding="utf-8")
    code, _, errors = run(words_of(good, tmp_path / "out", "masks", images=tmp_path / "images.txt"))
    assert code == 4 and "Traceback" not in errors


def test_the_limit_holds_for_every_command_without_a_config(good, tmp_path):
    field, image, out = good / "field.nii.gz", good / "moving.nii.gz", tmp_path / "o.nii.gz"
    calls = (
        lambda **limit: warp(image, out, field, progress=False, **limit),
        lambda **limit: warp(good / "points.csv", tmp_path / "o.csv", field, **limit),
        lambda **limit: invert(field, out, image, progress=False, **limit),
        lambda **limit: compose([field], out, image, **limit),
        lambda **limit: evaluate(
            None, tmp_path / "e", field, moving_label=str(good / "moving_label.nii.gz"),
            fixed_label=str(good / "fixed_label.nii.gz"), progress=False, **limit,
        ),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(InputError, match="or raise --max_image_gb"):
            call(max_image_gb=TINY_GB)
        assert not list(tmp_path.iterdir())
        call()
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_an_npz_that_would_fill_the_memory(tmp_path):
    """A compressed file of some kB that announces 16 GB is refused before it is decompressed."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4000, 1000, 1000), }"
    header += b" " * (118 - len(header)) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", content)
    with pytest.raises(InputError, match=r"announces the size \(4000, 1000, 1000\), 16.0 GB in memory"):
        load_array(tmp_path / "bomb.npz")
    with size_limit(20), pytest.raises(InputError, match="cannot be read as npz"):
        load_array(tmp_path / "bomb.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_images_that_are_not_finite_never_become_a_result(good, tmp_path, value):
    image = nib.load(good / "moving.nii.gz")
    array = np.asarray(image.dataobj, np.float32)
    array[3, 4, 2] = value
    nib.save(nib.Nifti1Image(array, image.affine), tmp_path / "bad.nii.gz")
    if abs(value) == 3e38:
        array[:] = value
        nib.save(nib.Nifti1Image(array, image.affine), tmp_path / "bad.nii.gz")
    call = words_of(good, tmp_path / "out", "register", moving=tmp_path / "bad.nii.gz")
    refused(call, "everywhere" if abs(value) == 3e38 else "NaN or infinite")
    with pytest.raises(InputError, match="NaN or infinite") if abs(value) != 3e38 else pytest.raises(InputError):
        warp(tmp_path / "bad.nii.gz", tmp_path / "o.nii.gz", good / "field.nii.gz", progress=False)
        raise InputError("a finite image is written")
    assert not (tmp_path / "o.nii.gz").exists() or abs(value) == 3e38


@pytest.mark.parametrize("content", ["", "not a matrix", "1 2 3\n4 5 6\n", "nan " * 16, "1 0 0 0\n" * 4])
def test_an_initial_alignment_that_cannot_be_read(good, tmp_path, content):
    (tmp_path / "start.txt").write_text(content, encoding="utf-8")
    refused(words_of(good, tmp_path / "out", "register", init=tmp_path / "start.txt"), "start.txt")


@pytest.mark.parametrize("name", ["gone.txt", "a folder", "/dev/zero"])
def test_an_initial_alignment_that_is_no_file(good, tmp_path, name):
    (tmp_path / "a folder").mkdir()
    path = name if os.path.isabs(name) else tmp_path / name
    refused(words_of(good, tmp_path / "out", "register", init=path), Path(name).name)


def test_evaluate_waits_for_nobody_who_writes_there(good, tmp_path):
    options = {f"{role}_label": str(good / f"{role}_label.nii.gz") for role in ("moving", "fixed")}
    with locked(tmp_path), pytest.raises(InputError, match="is in use by process"):
        evaluate(None, tmp_path, good / "field.nii.gz", progress=False, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["p/moved.nii.gz", "p/deeper/image.nii.gz", "summary.csv"])
def test_a_list_whose_results_would_replace_its_own_inputs(good, tmp_path, place):
    """Nothing is read or written, also where the input is named by a link."""
    out = tmp_path / "out"
    (out / place).parent.mkdir(parents=True)
    shutil.copy(good / "moving.nii.gz", out / place)
    (tmp_path / "link.nii.gz").symlink_to(out / place)
    for moving in (out / place, tmp_path / "link.nii.gz"):
        row = {"name": "p", "moving": str(moving), "fixed": str(good / "fixed.nii.gz")}
        (tmp_path / "list.json").write_text(json.dumps([row]), encoding="utf-8")
        for dry in (True, False):
            with pytest.raises(InputError, match="is an input and would be replaced by a result"):
                register(pairs=tmp_path / "list.json", output_dir=out, dry_run=dry, **QUICK)
    assert [p.name for p in out.rglob("*") if p.is_file()] == [Path(place).name]


def test_a_submission_does_not_replace_the_fields_of_other_cases(good, tmp_path):
    """Checked before any case is measured."""
    for name in ("img_0001.nii.gz", "img_0002.nii.gz"):
        shutil.copy(good / "moving.nii.gz", tmp_path / name)
    shutil.copy(good / "field.nii.gz", tmp_path / "disp_0002_0001.nii.gz")
    rows = [
        {
            "name": "a",
            "transforms": str(good / "field.nii.gz"),
            "moving": "img_0001.nii.gz",
            "fixed": "img_0002.nii.gz",
        },
        {"name": "b", "transforms": "disp_0002_0001.nii.gz"},
    ]
    (tmp_path / "cases.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(InputError, match="is an input as well as the output"):
        evaluate(tmp_path / "cases.json", tmp_path / "out", submission=str(tmp_path), progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_no_output_replaces_a_pipe_or_a_device(good, tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    with pytest.raises(InputError, match="exists and is not a file"):
        warp(good / "moving.nii.gz", tmp_path / "pipe.nii.gz", good / "field.nii.gz", progress=False)
    assert not (tmp_path / "pipe.nii.gz").is_file()


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("register", "scripts.roi.registration.find_regions"),
        ("correspond", "scripts.data.pair.resample"),
        ("masks", "scripts.masks.files.read_volume"),
        ("warp", "scripts.verbs.warp.resample_image"),
        ("invert", "scripts.verbs.invert.invert_chain"),
        ("compose", "scripts.verbs.compose.write_chain"),
        ("evaluate", "scripts.verbs.measure.label_metrics"),
    ],
)
def test_too_little_memory_is_one_sentence_in_every_command(good, tmp_path, monkeypatch, command, place):
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(place, full)
    field, labels = good / "field.nii.gz", {f"{r}_label": good / f"{r}_label.nii.gz" for r in ("moving", "fixed")}
    files = {
        "warp": {"input": good / "moving.nii.gz", "output": tmp_path / "o.nii.gz", "progress": False},
        "invert": {"output": tmp_path / "o.nii.gz", "progress": False},
        "compose": {"output": tmp_path / "o.nii.gz"},
        "evaluate": {"output_dir": tmp_path / "out", "progress": False, **labels},
    }
    if command in files:
        call = Attack("", command, {**files[command], "transforms": field}, good, good)
    else:
        call = words_of(good, tmp_path / "out", command)
    refused(call, "Out of memory; use")
    assert not [p for p in tmp_path.rglob("*.nii.gz") if ".cache" not in p.parts]


READ_IN_LITTLE_MEMORY = """
import resource, sys
from scripts.spatial.files import read_itk
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
try:
    read_itk(sys.argv[1])
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's limit of memory")
def test_too_little_memory_for_an_image_of_itk_is_not_called_damage(bundle, tmp_path):
    """ITK says it in the text of a RuntimeError only. The file is sparse: 800 MB of zeros."""
    header = b"NDims = 3\nDimSize = 1000 1000 400\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    with (tmp_path / "large.mha").open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + 800_000_000)
    words = [sys.executable, "-c", READ_IN_LITTLE_MEMORY, str(tmp_path / "large.mha")]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", cwd=bundle, check=True)
    assert "Failed to allocate memory for image" in done.stdout


def test_a_file_without_permission_is_not_called_truncated():
    with pytest.raises(InputError, match="permission denied"), readable("a.nii.gz", "NIfTI"):
        raise PermissionError(13, "Permission denied")


def test_the_policy_names_what_is_trusted_and_how_to_report(bundle):
    text = (bundle / "SECURITY.md").read_text(encoding="utf-8")
    for part in ("## What is trusted", "## What is not trusted", "## Report a vulnerability", "--trust True"):
        assert part in text
