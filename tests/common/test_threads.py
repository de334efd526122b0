# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Only free cores are used. Pieces of work at the same time: order, shares of the threads, gradients, exceptions."""

from __future__ import annotations

import threading

import psutil
import pytest
import torch

from scripts.common import threads as module
from scripts.common.threads import cpu_quota, side_by_side, use_free_cores


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_keep_their_order_and_each_gets_its_share(threads):
    found = side_by_side(lambda: (0, torch.get_num_threads()), lambda: (1, torch.get_num_threads()))
    assert found == [(0, max(1, threads // 2)), (1, max(1, threads // 2))]
    assert torch.get_num_threads() == threads
    later: list[int] = []
    other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert later == [threads]  # a thread that begins afterwards is not limited


def test_both_run_at_the_same_time():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        meeting = threading.Barrier(2, timeout=20)
        side_by_side(meeting.wait, meeting.wait)
    finally:
        torch.set_num_threads(before)


def test_gradients_are_recorded_as_outside(threads):
    with torch.no_grad():
        assert side_by_side(torch.is_grad_enabled, torch.is_grad_enabled) == [False, False]
    assert side_by_side(torch.is_grad_enabled, torch.is_grad_enabled) == [True, True]


def test_an_exception_is_raised_and_the_threads_come_back(threads):
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda: 1, lambda: 1 // 0)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("used", "load", "quota", "expected"),
    [
        (0.0, 0.1, "max 100000", 4),
        (50.0, 3.0, "max 100000", 2),
        (100.0, 9.0, "max 100000", 1),
        (100.0, 0.2, "max 100000", 4),  # other programs have only just begun
        (0.0, 4.0, "max 100000", 4),  # they have just ended
        (12.0, 1.0, "max 100000", 4),
        (0.0, 0.0, "200000 100000", 2),
        (0.0, 0.0, "50000 100000", 1),
        (0.0, 0.0, None, 4),
    ],
)
def test_only_free_cores_are_used(monkeypatch, tmp_path, used, load, quota, expected):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: used)
    monkeypatch.setattr(psutil, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(module, "CGROUP", tmp_path)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    torch.set_num_threads(4)
    try:
        use_free_cores()
        assert torch.get_num_threads() == expected
        torch.set_num_threads(4)
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        use_free_cores()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_the_quota_of_this_machine_is_positive():
    assert cpu_quota() > 0
