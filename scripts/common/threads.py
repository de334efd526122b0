# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Independent pieces of work on the CPU at the same time.

Work on small tensors gains little from the threads inside PyTorch, and loses much where another program keeps one of
the cores busy, because all threads wait for each other after every operation. Two pieces that do not wait for each
other gain more.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


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

    try:
        with ThreadPoolExecutor(len(works), initializer=begin) as pool:
            return [found.result() for found in [pool.submit(work) for work in works]]
    finally:
        torch.set_num_threads(threads)  # a new thread would take the number that was set last
