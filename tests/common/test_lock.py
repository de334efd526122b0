"""The lock of an output folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from scripts.common.errors import InputError
from scripts.common.lock import NAME, locked


def test_one_process_holds_the_lock_and_leaves_no_file(tmp_path):
    with locked(tmp_path):
        said = rf"{tmp_path} is in use by process {os.getpid()} on .*; wait, or"
        with pytest.raises(InputError, match=said), locked(tmp_path):
            pass
        assert (tmp_path / NAME).exists()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        pass


def test_a_killed_process_leaves_no_lock(bundle, tmp_path):
    code = "import sys, time; from scripts.common.lock import locked\nwith locked(sys.argv[1]):\n print('held', flush=True)\n time.sleep(60)"  # noqa: E501
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=bundle, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"in use by process {process.pid}"), locked(tmp_path):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def acquire(self):
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with locked(tmp_path):
        assert "file system without locks; make sure that only one process writes there" in caplog.text


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="Nothing can be written to"), locked(tmp_path / "gone"):
        pass
