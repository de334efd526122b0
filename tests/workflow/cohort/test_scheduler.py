"""A cohort on a Dask cluster: the results of one process, also when a worker is killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from scripts import register
from scripts.common.errors import InputError
from scripts.workflow.cohort import case
from tests.workflow.cohort.conftest import QUICK, results, write_list
from tests.workflow.cohort.test_processes import NAMES

distributed = pytest.importorskip("distributed")


def kill_one(out: Path, killed: list[int]) -> None:
    """Kills the first worker that begins to write a result."""
    until = time.monotonic() + 200
    while time.monotonic() < until:
        for begun in out.glob(f"{case.RUNNING}/*-dask/{case.NEW}/*"):
            killed.append(int(begun.parents[1].name.split("-")[-2]))
            os.kill(killed[0], signal.SIGKILL)
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(phantoms, undisturbed, tmp_path):
    out, killed = tmp_path / "out", []
    options = {**QUICK, "everything": {**QUICK["everything"], "seconds": 1.0}}
    listed = write_list(tmp_path / "list.json", phantoms)
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "local_directory": str(tmp_path)}
    with distributed.LocalCluster(**how) as cluster:
        killer = threading.Thread(target=kill_one, args=(out, killed))
        killer.start()
        summary = register(pairs=listed, output_dir=str(out), scheduler=cluster.scheduler_address, **options)
        killer.join()
    assert killed
    assert (summary["registered"], summary["failed"]) == (3, 0)
    assert results(out, NAMES) == results(undisturbed, NAMES)
    assert {p.name for p in out.iterdir()} == {*NAMES, ".cache", "summary.csv", "summary.json", "report.html"}


def test_no_scheduler_is_one_sentence(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.workflow.cohort.scheduler.PATIENCE_S", 0.5)
    listed = write_list(tmp_path / "list.json", phantoms[:1])
    with pytest.raises(InputError, match=r"No Dask scheduler answers at tcp://127.0.0.1:9"):
        register(pairs=listed, output_dir=str(tmp_path / "out"), scheduler="tcp://127.0.0.1:9", **QUICK)
