# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Pieces of work at the same time: order, shares of the threads, gradients, exceptions."""

from __future__ import annotations

import threading

import pytest
import torch

from scripts.common.threads import side_by_side


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
