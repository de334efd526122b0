"""The folder of a pair: done only if complete and made from the same inputs; replaced as a whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from scripts.common.errors import InputError
from scripts.workflow.cohort import case

SETTINGS = "settings"


@pytest.fixture
def done(tmp_path):
    """(folder, item) of a pair that is done."""
    folder = tmp_path / "out" / "pair"
    folder.mkdir(parents=True)
    item = {"moving": str(tmp_path / "a.nii"), "fixed": str(tmp_path / "dicom"), "fixed_frame": 2}
    Path(item["moving"]).write_bytes(b"moving")
    Path(item["fixed"]).mkdir()
    (Path(item["fixed"]) / "1.dcm").write_bytes(b"slice")
    (folder / "ddf.nii.gz").write_bytes(b"field")
    inputs = case.describe_inputs(item)
    record = {
        "status": case.REGISTERED, "inputs": inputs, "key": case.pair_key(inputs, SETTINGS), "files": {"ddf.nii.gz": 5}
    }  # fmt: skip
    (folder / case.RECORD).write_text(json.dumps(record), encoding="utf-8")
    return folder, item


def test_moved_files_are_still_done(done, tmp_path):
    folder, item = done
    assert case.is_done(folder, item, SETTINGS)
    moved = str(tmp_path / "elsewhere.nii")
    shutil.copy(item["moving"], moved)
    assert case.is_done(folder, {**item, "moving": moved}, SETTINGS)
    os.utime(item["moving"])
    assert case.is_done(folder, item, SETTINGS)


def test_files_of_the_same_size_and_time_are_not_read_again(done, monkeypatch):
    folder, item = done
    known = case.read_record(folder)["inputs"]
    monkeypatch.setattr(case, "file_sha256", lambda path: pytest.fail(f"read {path}"))
    assert case.describe_inputs(item, known) == known


def rewrite(folder: Path, **values) -> None:
    record = {**case.read_record(folder), **values}
    (folder / case.RECORD).write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder, item: Path(item["moving"]).write_bytes(b"moveme"),
        lambda folder, item: (Path(item["fixed"]) / "1.dcm").write_bytes(b"other"),
        lambda folder, item: item.update(fixed_frame=3),
        lambda folder, item: item.update(moving_label=item["moving"]),
        lambda folder, item: item.pop("fixed_frame"),
        lambda folder, item: (folder / "ddf.nii.gz").unlink(),
        lambda folder, item: (folder / "ddf.nii.gz").write_bytes(b"fie"),
        lambda folder, item: (folder / case.RECORD).write_text("{", encoding="utf-8"),
        lambda folder, item: (folder / case.RECORD).unlink(),
        lambda folder, item: rewrite(folder, status=case.FAILED),
    ],
)
def test_any_change_is_done_again(done, change):
    folder, item = done
    change(folder, item)
    assert not case.is_done(folder, item, SETTINGS)


def test_other_settings_are_done_again(done):
    assert not case.is_done(*done, "other")


def test_a_folder_of_someone_else_is_not_replaced(done, tmp_path):
    folder, _ = done
    (tmp_path / "empty").mkdir()
    for free in (folder, tmp_path / "empty", tmp_path / "new"):
        case.check_free(free)
    (tmp_path / "file").write_text("x")
    for taken in (tmp_path / "dicom", tmp_path / "file"):
        with pytest.raises(InputError, match="exists and is not a result of a cohort"):
            case.check_free(taken)


def test_an_old_folder_is_replaced_whole(tmp_path):
    for name, content in ((f"{case.RUNNING}/w/new/pair", "new"), ("pair", "old"), ("pair.old", "another pair")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / f"{content}.txt").write_text(content)
    case.publish(tmp_path / case.RUNNING / "w" / "new" / "pair", tmp_path / "pair")
    assert [p.name for p in (tmp_path / "pair").iterdir()] == ["new.txt"]
    assert [p.name for p in (tmp_path / "pair.old").iterdir()] == ["another pair.txt"]
    assert [p for p in (tmp_path / case.RUNNING).rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("ask", [case.is_good, case.check_free, lambda folder: case.failed_since(folder, 0)])
@pytest.mark.parametrize("after_record", [False, True])
def test_a_folder_may_be_replaced_while_it_is_read(done, monkeypatch, ask, after_record):
    folder, _ = done
    failed = ask not in (case.is_good, case.check_free)
    if failed:
        case.write_record(folder / case.RECORD, {"status": case.FAILED})
    read, listing = case.read_record, Path.iterdir

    def gone() -> None:
        if folder.exists():
            folder.rename(folder.with_name("old"))

    if after_record:
        monkeypatch.setattr(case, "read_record", lambda *place: (read(*place), gone())[0])
    else:
        monkeypatch.setattr(Path, "iterdir", lambda self: (gone(), listing(self))[1])
    answer = ask(folder)
    assert answer is None if ask is case.check_free else answer is (failed and not after_record)


@pytest.mark.parametrize("name", ["pair", "pair.old", "sub-01/ses-1", "50%2F"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_kill_between_two_renames_loses_nothing(tmp_path, name, replaced):
    left = tmp_path / case.RUNNING / "only-host-1"
    flat = case.flat(name)
    target = tmp_path / name
    for folder in (left / case.OLD / flat, left / case.NEW / "half", *([target] if replaced else [])):
        folder.mkdir(parents=True)
        (folder / "file").write_text("new" if folder == target else "old")
    target.parent.mkdir(exist_ok=True)
    case.recover(tmp_path, left)
    assert (target / "file").read_text() == ("new" if replaced else "old")
    assert not left.exists()
    assert case.was_killed(tmp_path, "half") and not case.was_killed(tmp_path, name)
    case.survived(tmp_path, "half")
    assert not (tmp_path / case.KILLED).exists()


def test_a_failure_is_noted_next_to_a_good_result(done, tmp_path):
    folder, item = done
    stage = tmp_path / case.RUNNING / "w" / case.NEW / "pair"
    stage.mkdir(parents=True)
    (stage / case.LOG).write_text("why")
    failure = {"name": "pair", "status": case.FAILED, "error": "gone"}
    assert case.is_good(folder)
    case.keep_failure(stage, folder, failure)
    assert case.is_done(folder, item, SETTINGS) and (folder / "ddf.nii.gz").read_bytes() == b"field"
    assert case.last_record(folder) == {**failure, "error": "gone (the earlier result is kept)"}
    case.forget_failure(folder)
    assert case.last_record(folder)["status"] == case.REGISTERED
    assert {p.name for p in folder.iterdir()} == {"ddf.nii.gz", case.RECORD}


def test_a_full_disk_keeps_the_old_record(tmp_path, monkeypatch):
    path = tmp_path / "case.json"
    case.write_record(path, {"status": "old"})

    def full(self, text, encoding):
        with open(self, "w", encoding=encoding) as stream:
            stream.write(text[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space") as caught:
        case.write_record(path, {"status": "new"})
    assert json.loads(path.read_text()) == {"status": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["case.json"]
    assert case.is_disk_full(caught.value) and not case.is_disk_full(OSError(13, "denied"))
