# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Splits of subjects into training and validation, and even subsets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..common.errors import InputError


def split_of(split_dir: str | Path | None, data: str, subset: str) -> list[str]:
    """The subjects of the part "training" or "validation" of the file ``DATA.json`` in a folder of splits."""
    if split_dir is None:
        raise InputError(f"No folder of splits was given; name the one that holds {data}.json with --split_dir.")
    path = Path(split_dir) / f"{data}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))[subset]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} has no list of {subset} subjects; give the folder of the splits.") from error


def evenly(items: Sequence, count: int) -> list:
    """``count`` items at even distances; all of them if ``count`` is 0 or larger than their number."""
    if not count or count >= len(items):
        return list(items)
    return [items[int((k + 0.5) * len(items) / count)] for k in range(count)]
