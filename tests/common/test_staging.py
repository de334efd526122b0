"""A folder of results changes as one, wherever the process is killed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from scripts.common.staging import COMMITTED, complete_result, recover, staged

RECORD = "record.json"
KNOWN = {"a.txt", "b.txt", "c.txt", "d.txt"}
RESULTS = {"old": {"a.txt", "b.txt", "c.txt", RECORD}, "new": {"b.txt", "c.txt", "d.txt", RECORD}}


class KilledError(BaseException):
    """Simulates SIGKILL."""


def write(folder: Path, version: str) -> None:
    for name in RESULTS[version]:
        (folder / name).write_text(version, encoding="utf-8")


def result_in(folder: Path) -> tuple[str, set[str]]:
    """The content of every file of a result, and their names."""
    files = {p.name: p.read_text(encoding="utf-8") for p in folder.iterdir() if p.name in KNOWN | {RECORD}}
    said = set(files.values())
    assert len(said) == 1, f"a mixture: {files}"
    return said.pop(), set(files)


def replace(folder: Path) -> None:
    with staged(folder, RECORD, KNOWN) as part:
        write(part, "new")


def kill_at(monkeypatch, number: int) -> dict[str, int]:
    """Every step on the disk fails from step ``number`` on, as if the process had ended there."""
    steps = {"done": 0}

    def patched(function):
        def step(*arguments, **options):
            steps["done"] += 1
            if steps["done"] >= number:
                raise KilledError
            return function(*arguments, **options)

        return step

    for owner, names in (
        (Path, ("rename", "replace", "unlink", "chmod")),
        (os, ("link",)),
        (shutil, ("copy2", "rmtree")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, patched(getattr(owner, name)))
    return steps


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_result(tmp_path, links):
    def no_links(*arguments, **options):
        raise OSError("links are not supported")

    seen, number = [], 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder, "old")
        (folder / "notes.txt").write_text("mine")
        with pytest.MonkeyPatch.context() as patch:
            if not links:
                patch.setattr(os, "link", no_links)
            kill_at(patch, number)
            try:
                replace(folder)
                break
            except KilledError:
                pass
        place = complete_result(folder, RECORD)
        said, names = result_in(place)
        assert names == RESULTS[said]
        seen.append(said)
        recover(folder)
        assert result_in(folder) == (said, RESULTS[said])
        assert {p.name for p in folder.iterdir()} == RESULTS[said] | {"notes.txt"}
    assert result_in(folder) == ("new", RESULTS["new"])
    assert seen == sorted(seen, reverse=True) and seen.count("old") >= 2 and seen.count("new") >= 8


def test_an_exception_leaves_the_old_result(tmp_path):
    write(tmp_path, "old")
    with pytest.raises(ZeroDivisionError), staged(tmp_path, RECORD, KNOWN) as part:
        (part / "b.txt").write_text("new")
        raise ZeroDivisionError
    assert result_in(tmp_path) == ("old", RESULTS["old"])
    assert {p.name for p in tmp_path.iterdir()} == RESULTS["old"]


def test_leftovers_are_deleted_and_files_of_others_stay(tmp_path):
    """Without a record nothing in the folder belongs to a result, whatever its name."""
    (tmp_path / ".writing-result-dead").mkdir()
    (tmp_path / ".writing-result-dead" / "b.txt").write_text("half")
    (tmp_path / ".writing-other").mkdir()  # another program may be using it
    day = 25 * 3600
    (tmp_path / ".writing-ancient").mkdir()
    os.utime(tmp_path / ".writing-ancient", (0, (tmp_path / ".writing-other").stat().st_mtime - day))
    (tmp_path / "a.txt").write_text("mine")
    replace(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == RESULTS["new"] | {"a.txt", ".writing-other"}


def test_a_link_in_the_place_of_a_committed_result_is_not_followed(tmp_path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    elsewhere.mkdir(), folder.mkdir()
    write(elsewhere, "old")
    (folder / COMMITTED).symlink_to(elsewhere)
    recover(folder)
    assert list(folder.iterdir()) == [] and result_in(elsewhere) == ("old", RESULTS["old"])
    assert complete_result(folder, RECORD) is None
