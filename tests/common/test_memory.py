"""Memory as the system reports it."""

from __future__ import annotations

import numpy as np
import psutil

from scripts.common.memory import available_memory_mb, peak_memory_mb


def test_the_peak_grows_with_use():
    before = peak_memory_mb()
    resident = psutil.Process().memory_info().rss / 2**20
    assert before > 0.9 * resident
    block = np.ones(int((before - resident + 200) * 2**17))
    assert peak_memory_mb() > before + 150
    del block


def test_a_container_has_less_than_its_machine(tmp_path):
    machine = available_memory_mb(tmp_path)
    assert 0 < machine <= psutil.virtual_memory().total / 2**20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1048576\n")
    assert abs(available_memory_mb(tmp_path) - machine) < 0.2 * machine
    (tmp_path / "memory.max").write_text("3145728\n")
    assert available_memory_mb(tmp_path) == 2
