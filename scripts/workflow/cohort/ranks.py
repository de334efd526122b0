# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Sharing pairs among the processes that torchrun starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from monai.data import partition_dataset

LONGEST = timedelta(days=30)  # how long the first process to finish waits for the others


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """Number of this process and of all processes: (0, 1), or what torchrun says."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield 0, 1
        return
    mine = not dist.is_initialized()
    if mine:
        # Only lists of names and numbers are exchanged: gloo does that on any machine.
        dist.init_process_group("gloo", timeout=LONGEST)
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        if mine:
            dist.destroy_process_group()


def from_first(value: Any, size: int) -> Any:
    """The value that the first process has."""
    if size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def from_all(value: Any, size: int) -> list:
    """The values of all processes, once all have got here."""
    if size == 1:
        return [value]
    values: list = [None] * size
    dist.all_gather_object(values, value)
    return values


def share(items: Sequence, rank: int, size: int) -> list:
    """The run of neighbouring items that this process does; neighbours share images and so what was computed."""
    if size == 1:
        return list(items)
    return list(partition_dataset(list(items), ratios=[1.0] * size, shuffle=False)[rank])
