"""Files are written completely or not at all; inputs that are not files are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.common.errors import InputError
from scripts.common.files import BESIDE, check_outputs, existing, read_text, there, whole_file


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    with whole_file(target) as part:
        part.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_the_old_file_survives_a_failure(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises((InputError, KeyboardInterrupt)) as caught, whole_file(target) as part:
        part.write_text("half")
        raise error
    if isinstance(error, OSError):
        assert "a.txt failed (No space left on device); nothing was replaced." in str(caught.value)
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_an_empty_file_counts_as_a_failed_write(tmp_path):
    """ITK reports success when a full disk leaves a transform of 0 bytes."""
    target = tmp_path / "a.tfm"
    target.write_text("old")
    with pytest.raises(InputError, match="the disk may be full"), whole_file(target) as part:
        part.touch()
    assert target.read_text() == "old"


def test_a_header_takes_its_name_after_its_data(tmp_path, monkeypatch):
    order = []
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append(Path(to).name), rename(self, to))[1])
    with whole_file(tmp_path / "a.mhd") as part:
        part.write_text("header")
        part.with_name("z.raw").write_text("data")
    assert order == ["z.raw", "a.mhd"]


def test_leftovers_of_killed_processes_are_deleted_after_a_day(tmp_path):
    for name, age in (("old", 200_000), ("new", 10)):
        (tmp_path / f"{BESIDE}{name}").mkdir()
        os.utime(tmp_path / f"{BESIDE}{name}", (os.path.getmtime(tmp_path) - age,) * 2)
    with whole_file(tmp_path / "a.txt") as part:
        part.write_text("new")
    assert {p.name for p in tmp_path.iterdir()} == {"a.txt", f"{BESIDE}new"}


def test_an_output_that_is_an_input_under_another_name(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b").mkdir()
    check_outputs([tmp_path / "c.txt"], [tmp_path / "a.txt", tmp_path / "gone"])
    with pytest.raises(InputError, match="is an input as well as the output"):
        check_outputs([tmp_path / "b" / ".." / "a.txt"], [tmp_path / "a.txt"])
    os.link(tmp_path / "a.txt", tmp_path / "hard.txt")
    with pytest.raises(InputError, match="is an input as well as the output"):
        check_outputs([tmp_path / "hard.txt"], [tmp_path / "a.txt"])


def test_inputs_that_are_not_files(tmp_path):
    (tmp_path / "empty").touch()
    for path, message in (
        (tmp_path / "gone", "does not exist; give the path of an image"),
        (tmp_path / "empty", "is empty"),
        (tmp_path, "is a folder, not a file"),
        ("nul\0byte", "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            existing(path, "an image")
    assert existing(tmp_path, "an image", folder=True) == tmp_path
    assert not there("nul\0byte")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and devices of POSIX")
def test_pipes_devices_and_proc_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    for path in (tmp_path / "pipe.nii.gz", "/dev/zero", "/dev/null"):
        with pytest.raises(InputError, match="is a device or a pipe"):
            existing(path, "an image")
    if Path("/proc/self/environ").exists():
        with pytest.raises(InputError, match="is empty"):
            existing("/proc/self/environ", "a list")


def test_home_and_names_that_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("home")
    (tmp_path / "~b.txt").write_text("tilde")
    assert read_text("~/a.txt", "text") == "home"
    assert read_text("~b.txt", "text") == "tilde"
    with pytest.raises(InputError, match="~nobody-of-this-name"):
        read_text("~nobody-of-this-name/a.txt", "text")


def test_text_in_utf8_only(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf\xc3\xbc")
    assert read_text(tmp_path / "a.txt", "text") == "ü"
    (tmp_path / "b.txt").write_bytes(b"\xfc")
    with pytest.raises(InputError, match=r"b\.txt cannot be read as text; save it as UTF-8"):
        read_text(tmp_path / "b.txt", "text")
