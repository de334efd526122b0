# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How many CPU threads are used, and independent pieces of work at the same time.

The threads inside PyTorch wait for each other after every operation. That gains little on small tensors, and loses much
where another program keeps one of the cores busy.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import psutil
import torch

from .memory import CGROUP

logger = logging.getLogger(__name__)

T = TypeVar("T")


def use_free_cores() -> None:
    """Limits PyTorch to the cores that no other program keeps busy and that a container may use.

    Does nothing if ``OMP_NUM_THREADS`` is set. A core counts as busy if it is so now and was so over the last minute.
    """
    threads = torch.get_num_threads()
    if threads == 1 or os.environ.get("OMP_NUM_THREADS"):
        return
    cores = psutil.cpu_count() or threads
    busy = min(psutil.cpu_percent(interval=0.3) * cores / 100, psutil.getloadavg()[0])
    free = max(1, min(threads, round(min(cores - busy, cpu_quota()))))
    if free < threads:
        torch.set_num_threads(free)
        logger.info(f"{free} of {threads} CPU threads are used; the others are not free. OMP_NUM_THREADS changes this.")


@contextmanager
def same_threads_after() -> Iterator[None]:
    """Restores the number of threads of the calling program at the end."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)  # a new thread takes the number that was set last


def cpu_quota() -> float:
    """Cores that the limits of a container amount to; infinite without a limit."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # ValueError: "max", no limit
        return float("inf")


def side_by_side(*works: Callable[[], T]) -> list[T]:
    """Results of functions that run at the same time, in the order given; each gets its share of the threads.

    With a single thread they run one after another. Gradients are recorded as in the calling thread. An exception of a
    function is raised here.
    """
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    if threads == 1:
        return [work() for work in works]

    def begin() -> None:
        torch.set_num_threads(max(1, threads // len(works)))
        torch.set_grad_enabled(gradients)

    with same_threads_after(), ThreadPoolExecutor(len(works), initializer=begin) as pool:
        return [found.result() for found in [pool.submit(work) for work in works]]
