# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The list of pairs of a cohort: a CSV or JSON file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.errors import InputError
from ...data.pair_rows import pair_rows

SUMMARIES = ("summary.csv", "summary.json", "report.html")  # files that the cohort writes beside the folders
ENDINGS = re.compile(r"(\.nii)?\.[A-Za-z0-9]+$")


@dataclass(frozen=True)
class Entry:
    """One pair of a list.

    Attributes:
        name: of the pair and of the folder of its results.
        item: paths and frames by column, see :class:`scripts.data.pair.LoadPair`; only what is given.
    """

    name: str
    item: dict[str, Any]


def read_entries(path: str | Path | None, columns: Sequence[str]) -> list[Entry]:
    """Reads the list of a cohort.

    Args:
        path: see :func:`scripts.data.pair_rows.pair_rows`.
        columns: the keys that the method reads besides "name"; "moving" and "fixed" are needed.

    Returns:
        the pairs in the order of the list; a pair without a name is called after its two files.

    Raises:
        InputError: the file is missing or malformed, has an unknown column, a row without images, or names that are
            used twice or cannot be folders.
    """
    if not path:
        raise InputError("No list of pairs was given; name a CSV or JSON file with --pairs.")
    entries: list[Entry] = []
    taken: set[str] = set()
    for number, item in enumerate(pair_rows(path, columns), start=1):
        name = item.pop("name", None) or _unused(f"{_stem(item['moving'])}_to_{_stem(item['fixed'])}", taken)
        if not is_folder_name(name):
            raise InputError(
                f"Pair {number} of {path} is called {name!r}, which cannot be the name of a folder; change it."
            )
        if name.casefold() in taken:
            raise InputError(f"The name {name!r} stands twice in {path}; every pair needs a name of its own.")
        taken.add(name.casefold())
        entries.append(Entry(name, item))
    return entries


def is_folder_name(name: str) -> bool:
    """Whether a folder of this name lies directly in the output folder, on every file system, beside the summary."""
    plain = not re.search(r'[\x00-\x1f<>:"/\\|?*]', name) and name.casefold() not in SUMMARIES
    return plain and not name.startswith(".") and not name.endswith((".", " ")) and 0 < len(name.encode()) <= 200


def _stem(path: str) -> str:
    """A file name without its ending, fit for a folder."""
    stem = ENDINGS.sub("", Path(path).name)
    return re.sub(r"[^\w+-]+", "_", stem).strip("_")[:60] or "image"


def _unused(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{name}_{number}"
    return free
