# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The list of pairs of a cohort: a CSV, TSV or JSON file."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from ...common.errors import InputError
from ...data.pair_rows import FILES, pair_rows

SUMMARIES = ("summary.csv", "summary.json", "report.html")  # next to the folders of the pairs
FOLDER = re.compile(r'(?!\.)[^\x00-\x1f<>:"/\\|?*]+(?<![. ])')  # what every file system takes
ENDINGS = re.compile(r"(\.nii)?\.[A-Za-z0-9]+$")


@dataclass(frozen=True)
class Entry:
    """One pair of a list.

    Attributes:
        name: of the pair and of the folder of its results; may have slashes, as in BIDS: "sub-01/ses-1".
        item: paths and frames by column, see :class:`scripts.data.pair.LoadPair`; only what is given.
    """

    name: str
    item: dict[str, Any]


def read_entries(path: str | Path | None, columns: Sequence[str]) -> list[Entry]:
    """Reads the list of a cohort, in its order; a pair without a name is called after its two files.

    Args:
        path: see :func:`scripts.data.pair_rows.pair_rows`.
        columns: the keys that the method reads besides "name"; "moving" and "fixed" are needed.

    Raises:
        InputError: the file is missing or malformed, has an unknown column, a row without images, or names that are
            used twice, cannot be folder names, or lie inside each other.
    """
    if not path:
        raise InputError("No list of pairs was given; name a CSV, TSV or JSON file with --pairs.")
    entries: list[Entry] = []
    taken: set[str] = set()
    numbers: Counter[str] = Counter()  # of unnamed pairs, by name
    for number, item in enumerate(pair_rows(path, columns), start=1):
        name = item.pop("name", None) or _unused(f"{_stem(item['moving'])}_to_{_stem(item['fixed'])}", taken, numbers)
        if not is_pair_name(name):
            raise InputError(
                f"Pair {number} of {path} is called {name!r}, which cannot be the name of a folder; change it."
            )
        if name.casefold() in taken:
            raise InputError(f"The name {name!r} is used twice in {path}; give each pair its own name.")
        taken.add(name.casefold())
        entries.append(Entry(name, item))
    for entry in entries if any("/" in name for name in taken) else ():
        for outer in PurePosixPath(entry.name.casefold()).parents:
            if str(outer) in taken:
                raise InputError(
                    f"The pair {entry.name!r} of {path} would lie in the folder of the pair {str(outer)!r}; rename one."
                )
    return entries


def check_replaced(entries: Sequence[Entry], output_dir: str | Path, pairs: str | Path) -> None:
    """Checks that registering a list replaces none of its files: the folder of each pair is replaced as a whole.

    Raises:
        InputError: the list, or a file of it, is in the folder of a pair or has the name of a summary.
    """
    root, names = os.path.realpath(output_dir), {entry.name for entry in entries}
    resolved = lru_cache(maxsize=4096)(os.path.realpath)
    files = (value for entry in entries for key, value in entry.item.items() if key in FILES)
    for file in (str(pairs), *files):
        path = os.path.realpath(file) if os.path.islink(file) else os.path.join(resolved(os.path.dirname(file)), "")
        if not path.startswith(os.path.join(root, "")):
            continue
        place = PurePosixPath(Path(os.path.realpath(file)).relative_to(root).as_posix())
        if str(place) in SUMMARIES or any(str(outer) in names for outer in (place, *place.parents)):
            raise InputError(f"{file} is an input and would be replaced by a result; give another --output_dir.")


def is_pair_name(name: str) -> bool:
    """Whether a pair of this name can have a folder below the output folder on every file system."""
    parts = name.split("/")
    short = len(name.encode()) <= 200 and name.count("%") + name.count("/") <= 20
    return short and all(map(FOLDER.fullmatch, parts)) and parts[0].casefold() not in SUMMARIES


def _stem(path: str) -> str:
    """A file name without its ending, fit for a folder."""
    stem = ENDINGS.sub("", Path(path).name)
    return re.sub(r"[^\w+-]+", "_", stem).strip("_")[:60] or "image"


def _unused(name: str, taken: set[str], numbers: Counter[str]) -> str:
    """The name, with a number if pairs before it have the same."""
    free = name
    while free.casefold() in taken:
        numbers[name] += 1
        free = f"{name}_{numbers[name] + 1}"
    return free
