"""Memory does not grow with the number of pairs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts import register
from scripts.workflow.cohort.one import PairRunner
from tests.workflow.cohort.conftest import QUICK, write_list


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_memory_stays_flat(phantoms, tmp_path, monkeypatch, count):
    """At the end it is within 5 % of its value after ten pairs."""
    seen = []
    one = PairRunner.one

    def watched(self, entry, key, worker):
        record = one(self, entry, key, worker)
        seen.append(resident_mb())
        return record

    monkeypatch.setattr(PairRunner, "one", watched)
    rows = [{**phantoms[k % 3], "name": str(k)} for k in range(count)]
    options = {**QUICK, "dense_settings#levels": 1, "cache_gb": 0}
    summary = register(pairs=write_list(tmp_path / "list.json", rows), output_dir=str(tmp_path), **options)
    assert summary["registered"] == count == len(seen)
    assert seen[-1] < 1.05 * seen[9], [round(s) for s in seen]
