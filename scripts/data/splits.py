# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Splits of subjects into training and validation, and even subsets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..common.errors import InputError

HELD_OUT = 9  # one in this many training subjects belongs to the inner validation


def split_of(split_dir: str | Path | None, data: str, subset: str) -> list[str]:
    """The subjects of one part of the file ``DATA.json`` in a folder of splits.

    Parts are "training", "validation", and two of the training subjects: "inner_validation", every ninth of them, on
    which settings are chosen, and "inner_training", the others.
    """
    if split_dir is None:
        raise InputError(f"No folder of splits was given; give the folder of {data}.json with --split_dir.")
    path = Path(split_dir) / f"{data}.json"
    inner = subset.startswith("inner_")
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["training" if inner else subset]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} has no list of {subset} subjects; give the folder of the splits.") from error
    if not inner:
        return names
    held_out = names[HELD_OUT // 2 :: HELD_OUT]
    return held_out if subset == "inner_validation" else [n for n in names if n not in held_out]


def evenly(items: Sequence, count: int) -> list:
    """``count`` items at even distances; all of them if ``count`` is 0 or larger than their number."""
    if not count or count >= len(items):
        return list(items)
    return [items[int((k + 0.5) * len(items) / count)] for k in range(count)]
