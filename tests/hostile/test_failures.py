"""A full disk and a killed process leave the old or the new result of every command, never a mixture or half of one."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from scripts.common.files import whole_file
from scripts.common.staging import complete_result
from scripts.spatial.itk_images import write_itk
from scripts.spatial.transform_files import WRITABLE
from scripts.workflow.outcome import ExitCode

from .attacks import Attack
from .failures import KilledError, full_disk, killed, quick_collection
from .fuzz import run
from .inputs import NETWORK, QUICK

VARYING = {"seconds", "peak_memory_mb", "changed_ns", "key", "files", "inputs"}
OF_ONE_RUN = {"done_before", "slices"}  # counts that differ for a run that continued another one
WRITTEN = (ExitCode.OK, ExitCode.NOTHING_FOUND, ExitCode.NOTHING_TRUSTED)
FEW = (1, 2, 5, 9)  # the steps that the default suite tries

Call = tuple[str, dict[str, Any]]


def folder_calls() -> dict[str, tuple[Call, dict[str, Any], str]]:
    """Commands that write a folder: the first call, the options that a second one changes, and the record."""
    pair = {"moving": "{good}/moving.nii.gz", "fixed": "{good}/fixed.nii.gz", "output_dir": "{out}"}
    labels = {f"{role}_label": f"{{good}}/{role}_label.nii.gz" for role in ("moving", "fixed")}
    click = {"points": [[0, 0, 0]], "labels": [1], "sam": "compact"}  # the quickest model; all write the same
    field = {"transforms": "{good}/field.nii.gz", "progress": False}
    files = {"images": pair["moving"], "names": "a,b", "source": "files:{good}/moving_label.nii.gz"}
    files |= {"output_dir": "{out}", "values": {"a": 1, "b": 2}, "progress": False}
    pictures = {role: f"{{good}}/{role}.png" for role in ("moving", "fixed")}
    masks = {f"{role}_mask": f"{{good}}/{role}_label.nii.gz" for role in ("moving", "fixed")}
    quick = QUICK | {"discrete": False}
    record = "correspondence.json"
    return {
        "register": (("register", pair | labels | quick | {"inverse": True}), {"smoothness": 3.0}, record),
        "report": (("register", pair | pictures | quick | {"overview": True}), {"max_pairs": 2}, record),
        "network": (
            ("register", pair | masks | NETWORK | {"method": "network", "checkpoint": "{good}/network.pt"}),
            {"window": "mr", "keep": ["ddf"]},
            record,
        ),
        "correspond": (("correspond", pair | quick | click), {"points": [[10, 0, 0]], "epsilon": 0.5}, record),
        "masks": (("masks", files), {"names": "b,a"}, "moving_masks.json"),
        "evaluate": (
            ("evaluate", field | labels | {"output_dir": "{out}"}),
            {"moving_label": None, "fixed_label": None},
            "summary.json",
        ),
        "cohort": (
            ("register", {"pairs": "{good}/pictures.json", "output_dir": "{out}"} | quick),
            {"max_pairs": 2},
            "summary.json",
        ),
    }  # fmt: skip


def file_calls() -> dict[str, tuple[Call, str]]:
    """Commands that write one file, in every format, and its name."""
    field, quiet = {"transforms": "{good}/field.nii.gz"}, {"progress": False}
    calls: dict[str, tuple[Call, str]] = {}
    for suffix in WRITABLE:
        if suffix == ".hdf5":
            continue
        source = "affine.mat" if suffix in (".mat", ".xfm") else "field.nii.gz"
        name = f"o{suffix}"
        calls[f"compose{suffix}"] = ("compose", {"transforms": f"{{good}}/{source}", "output": f"{{out}}/{name}"}), name
    calls["invert"] = ("invert", field | quiet | {"output": "{out}/o.nii.gz"}), "o.nii.gz"
    for source, name in (
        ("moving.nii.gz", "o.nii.gz"), ("moving.nii.gz", "o.nrrd"), ("moving.nii.gz", "o.mha"),
        ("moving_landmarks.csv", "o.csv"), ("moving_landmarks.csv", "o.fcsv"), ("moving_landmarks.csv", "o.mrk.json"),
        ("result/moving_rois.seg.nrrd", "o.seg.nrrd"),
    ):  # fmt: skip
        options = field | quiet | {"input": f"{{good}}/{source}", "output": f"{{out}}/{name}"}
        calls[f"warp {name}"] = ("warp", options), name
    calls["summarise"] = ("summarise", {"output_dir": "{good}/cohort", "table": "{out}/o.csv"}), "o.csv"
    return calls


def attempt(call: Call, good: Path, out: Path, **changes: Any) -> tuple[int | None, str]:
    """Exit code and standard error of a call."""
    options = {**call[1], **changes}
    filled = {k: v.format(good=good, out=out) if isinstance(v, str) else v for k, v in options.items()}
    code, _, errors = run(Attack("", call[0], {k: v for k, v in filled.items() if v is not None}, good, good))
    return code, errors


def content(place: Path) -> dict[str, Any]:
    """The files of a folder, with what varies from run to run left out of records."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in place.iterdir() if p.is_file() and not p.name.startswith(".")):
        if path.suffix == ".json":
            found[path.name] = _lasting(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix in (".html", ".log") or path.name == "summary.csv":
            found[path.name] = ""  # these contain times
        else:
            found[path.name] = hashlib.blake2b(path.read_bytes()).hexdigest()
    return found


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _lasting(v) for k, v in value.items() if k not in VARYING | OF_ONE_RUN}
    return [_lasting(v) for v in value] if isinstance(value, list) else value


def two_results(name: str, good: Path, folder: Path) -> tuple[Call, dict, Path, dict[str, Any], dict[str, Any], str]:
    """A call, its changes, a folder with the old result, the contents of the old and the new one, and the record."""
    call, changes, record = folder_calls()[name]
    old = folder / "old"
    assert attempt(call, good, old)[0] in WRITTEN
    shutil.copytree(old, folder / "new")
    assert attempt(call, good, folder / "new", **changes)[0] in WRITTEN
    before, after = content(old), content(folder / "new")
    assert before != after
    return call, changes, old, before, after, record


def check_pairs(out: Path, old: Path) -> None:
    """Checks that each pair of a cohort is that of the old or of the new result, beside which the old one lies."""
    for name in ("p", "q"):
        if (out / name).exists():  # else a process was killed as it replaced the pair, which the next run brings back
            wholes = [content(place / name) for place in (old, old.with_name("new"))]
            assert content(out / name) in wholes, (out.name, name)


def steps_of(every: bool) -> Any:
    return count(1) if every else FEW


def fill_the_disk(name: str, good: Path, folder: Path, every: bool) -> None:
    call, changes, old, before, after, record = two_results(name, good, folder)
    for number in steps_of(every):
        out = folder / str(number)
        shutil.copytree(old, out)
        with full_disk(number) as steps:
            code, errors = attempt(call, good, out, **changes)
        sentences = [line for line in errors.splitlines() if line.startswith("error: ")]
        place = complete_result(out, record)
        assert place is not None and content(place) in (before, after), (name, number, errors[-500:])
        check_pairs(out, old)
        assert not list(out.glob(".writing-*")), (name, number)
        if not steps.failed:
            assert code in WRITTEN and content(place) == after
            return
        assert "Traceback" not in errors and (code in WRITTEN or len(sentences) == 1), (name, number, errors[-2000:])
        assert code in WRITTEN or content(place) == before or place.name == ".committed", (name, number, errors)
        shutil.rmtree(out)


@quick_collection()
def kill(name: str, good: Path, folder: Path, every: bool) -> None:
    call, changes, old, before, after, record = two_results(name, good, folder)
    for number in steps_of(every):
        out = folder / str(number)
        shutil.copytree(old, out)
        with killed(number) as steps, contextlib.suppress(KilledError):
            attempt(call, good, out, **changes)
        gc.collect()  # frees the lock, as the system does
        place = complete_result(out, record)
        assert place is not None and content(place) in (before, after), (name, number)
        check_pairs(out, old)
        code, errors = attempt(call, good, out, **changes)
        assert code in WRITTEN, (name, number, errors[-2000:])
        assert content(out) == after, (name, number)
        left = {p.name for p in out.iterdir() if p.name.startswith(".")} - {".cache"}
        assert not left, (name, number, left)
        if not steps.failed:
            return
        shutil.rmtree(out)


def fill_the_disk_of_a_file(name: str, good: Path, folder: Path, every: bool) -> None:
    call, file = file_calls()[name]
    for number in steps_of(every):
        out = folder / str(number)
        out.mkdir()
        (out / file).write_bytes(b"old")
        with full_disk(number) as steps:
            code, errors = attempt(call, good, out)
        if not steps.failed:
            assert code == 0 and (out / file).read_bytes() != b"old", (name, number, errors)
            return
        assert {p.name: p.read_bytes() for p in out.iterdir()} == {file: b"old"}, (name, number, errors)
        assert code == 1 and errors.count("error: ") == 1 and "Traceback" not in errors, (name, number, errors[-2000:])


def kill_a_file(name: str, good: Path, folder: Path) -> None:
    """Whenever the process ends, the file is the old or the new one, and a new header has its new data file."""
    call, file = file_calls()[name]
    (folder / "new").mkdir()
    assert attempt(call, good, folder / "new")[0] == 0
    new = {p.name: p.read_bytes() for p in (folder / "new").iterdir()}
    for number in count(1):
        out = folder / str(number)
        out.mkdir()
        (out / file).write_bytes(b"old")
        with killed(number) as steps, contextlib.suppress(KilledError):
            attempt(call, good, out)
        found = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
        assert found[file] == b"old" or same(found, new, name), (name, number)
        if not steps.failed:
            assert found[file] != b"old"
            return


def same(found: dict[str, bytes], new: dict[str, bytes], name: str) -> bool:
    """Whether all files are the same; HDF5 files contain the time, so of these only the size counts."""
    if name.endswith(".h5"):
        return {k: len(v) for k, v in found.items()} == {k: len(v) for k, v in new.items()}
    return found == new


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_a_header_and_its_data_change_as_one(good, tmp_path, suffix):
    """The old header names the old data until the new header is there; other data files stay."""
    name = f"o{suffix}"
    images = {k: sitk.GetArrayFromImage(sitk.ReadImage(str(good / f"{k}.nii.gz"))) for k in ("moving", "fixed")}
    for number in count(1):
        out = tmp_path / str(number)
        out.mkdir()
        (out / "o-2.raw").write_bytes(b"of the user")
        for k in ("moving", "fixed"):
            image = sitk.ReadImage(str(good / f"{k}.nii.gz"))
            change = number if k == "fixed" else 1000
            with killed(change) as steps, contextlib.suppress(KilledError), whole_file(out / name) as part:
                write_itk(part, image)
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(out / name)))
        assert any(np.array_equal(found, array) for array in images.values()), number
        assert (out / "o-2.raw").read_bytes() == b"of the user"
        if not steps.failed:
            assert np.array_equal(found, images["fixed"]) and len(list(out.iterdir())) == 3
            return


@pytest.mark.parametrize("name", ["compose.nii.gz", "compose.npz", "compose.mhd", "warp o.csv", "warp o.mha"])
def test_some_writes_of_one_file(good, tmp_path, name):
    fill_the_disk_of_a_file(name, good, tmp_path, every=False)


@pytest.mark.parametrize("name", ["compose.tfm", "compose.nhdr"])
def test_a_kill_while_a_file_is_replaced(good, tmp_path, name):
    kill_a_file(name, good, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", file_calls())
def test_a_kill_at_every_change_of_a_name_of_one_file(good, tmp_path, name):
    kill_a_file(name, good, tmp_path)


@pytest.mark.parametrize("name", ["masks", "evaluate"])
def test_some_steps_of_a_folder(good, tmp_path, name):
    fill_the_disk(name, good, tmp_path, every=False)
    kill(name, good, tmp_path / "killed", every=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", file_calls())
def test_every_write_of_one_file(good, tmp_path, name):
    fill_the_disk_of_a_file(name, good, tmp_path, every=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", folder_calls())
def test_every_write_of_a_folder(good, tmp_path, name):
    fill_the_disk(name, good, tmp_path, every=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", folder_calls())
def test_a_kill_at_every_change_of_a_name(good, tmp_path, name):
    kill(name, good, tmp_path, every=True)
