"""One run at a time writes into an output folder."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from scripts.common.errors import InputError
from scripts.workflow.guard import hold, sole_writer

HOLD = "import sys; from scripts.workflow.guard import hold; hold(sys.argv[1]); print('held', flush=True); input()"


def enter(folder) -> str:
    try:
        with sole_writer(folder):
            return "entered"
    except InputError as error:
        return str(error)


def test_the_same_thread_may_enter_again_and_others_may_not(tmp_path):
    with ThreadPoolExecutor(1) as other:
        with sole_writer(tmp_path / "new"):
            assert enter(tmp_path / "new") == "entered"
            assert "is in use by" in other.submit(enter, tmp_path / "new").result()
            hold(tmp_path / "new")  # does nothing: this thread has the folder
        assert other.submit(enter, tmp_path / "new").result() == "entered"


def test_hold_keeps_the_folder_until_the_program_ends(bundle, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=bundle,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"is in use by process {process.pid}"), sole_writer(tmp_path):
            pass
        process.communicate("\n", timeout=60)
    finally:
        process.kill()
    assert enter(tmp_path) == "entered"


def test_only_the_first_process_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    hold(tmp_path)
    assert list(tmp_path.iterdir()) == []
