"""Memory: the need of a pair is estimated before any work, and large results are written in slabs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from scripts.benchmarks.speed.writing import synthetic
from scripts.workflow import memory
from scripts.workflow.memory import CheckMemory, writing_mb


def test_a_pair_that_is_too_large_gives_a_warning(monkeypatch, caplog):
    pair, _, _ = synthetic((40, 40, 20), (2.0, 2.0, 3.0), 2, 32)
    needed = writing_mb(pair)
    assert needed == pytest.approx((24 * 32000 + 120 * np.prod(pair.working.shape)) / 2**20)
    monkeypatch.setattr(memory, "available_memory_mb", lambda: needed * 2)
    with caplog.at_level("INFO"):
        assert CheckMemory()({"pair": pair, "warnings": ["one"]})["warnings"] == ["one"]
    assert caplog.text == ""
    monkeypatch.setattr(memory, "WORTH_SAYING_MB", needed / 2)
    with caplog.at_level("INFO"):
        CheckMemory()({"pair": pair})
    assert "40 x 40 x 20 voxels" in caplog.text and "needs about 0.0 GB" in caplog.text
    monkeypatch.setattr(memory, "available_memory_mb", lambda: needed / 2)
    (sentence,) = CheckMemory()({"pair": pair})["warnings"]
    assert "40 x 40 x 20 voxels" in sentence and "lower --max_size" in sentence


@pytest.mark.slow
def test_a_large_result_takes_little_memory():
    """Bytes per voxel are nearly the same at every size; a CT of 512 x 512 x 300 has eight times the voxels."""
    words = [sys.executable, "-m", "scripts.benchmarks.speed.writing", "--shape", "256,256,150", "--regions", "20"]
    run = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=900, check=True)
    numbers = json.loads(run.stdout.strip().splitlines()[-1])
    assert numbers["peak_mb"] < 3000
    assert numbers["peak_mb"] - numbers["before_mb"] < 1.3 * numbers["estimated_mb"]
