# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How the pairs of a cohort are shared among shards, which may be tasks of a scheduler or processes of torchrun."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from ...common.errors import InputError
from .pairs import Entry


def by_fixed(entries: Sequence[Entry]) -> list[Entry]:
    """The pairs sorted by fixed image, so that its segmentation is still in the cache."""
    first_seen: dict[str, int] = {}
    for number, entry in enumerate(entries):
        first_seen.setdefault(entry.item["fixed"], number)
    return sorted(entries, key=lambda e: first_seen[e.item["fixed"]])


def share(entries: Sequence[Entry], number: int, size: int) -> list[Entry]:
    """The run of neighbouring pairs of one of ``size`` shards.

    Runs have about equal lengths and begin where a fixed image begins, if there is such a place nearby.
    """

    def border(k: int) -> int:
        place = round(k * len(entries) / size)
        for step in range(len(entries) // size // 2):
            for near in (place - step, place + step):
                if 0 < near < len(entries) and entries[near].item["fixed"] != entries[near - 1].item["fixed"]:
                    return near if 0 < k < size else place
        return place

    return list(entries[border(number) : border(number + 1)])


def shard_of(text: str | None, environ: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """The shard that this process registers, as (number from 0, how many), or None for the whole list.

    Under torchrun every process takes one part of it.

    Args:
        text: "i/n"; None takes the task of a Slurm array or the completion index of a Kubernetes job with
            ``JOB_COMPLETIONS``; "none" takes the whole list even there.
        environ: environment variables.
    """
    if text is None and environ.get("SLURM_ARRAY_TASK_ID", "").isdigit():
        task, first, last, step = (
            int(environ.get(f"SLURM_ARRAY_TASK_{what}", default))
            for what, default in (("ID", "0"), ("MIN", "0"), ("MAX", environ["SLURM_ARRAY_TASK_ID"]), ("STEP", "1"))
        )
        text = f"{(task - first) // step}/{(last - first) // step + 1}"
    if text is None and "JOB_COMPLETION_INDEX" in environ and "JOB_COMPLETIONS" in environ:
        text = f"{environ['JOB_COMPLETION_INDEX']}/{environ['JOB_COMPLETIONS']}"
    rank, ranks = int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1"))
    if text in (None, "none"):
        return (rank, ranks) if ranks > 1 else None
    found = re.fullmatch(r"(\d+)/(\d+)", str(text))
    if not found or int(found[1]) >= int(found[2]):
        raise InputError(f"--shard must be i/n with i from 0 to n - 1, e.g. 0/8, got {text!r}.")
    return int(found[1]) * ranks + rank, int(found[2]) * ranks
