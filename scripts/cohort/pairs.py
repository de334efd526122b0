# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The list of pairs of a cohort: a CSV or JSON file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.data.pair_rows import pair_rows
from scripts.errors import InputError

FRAMES = ("moving_frame", "fixed_frame")
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


def read_pairs(path: str | Path | None, columns: Sequence[str]) -> list[Entry]:
    """Reads a list of pairs.

    Args:
        path: CSV with a header row, or JSON with a list of objects (or {"pairs": [...]}). Paths in it are relative to
            its folder.
        columns: the keys that the method reads besides "name"; "moving" and "fixed" are needed.

    Returns:
        the pairs in the order of the list; a pair without a name is called after its two files.

    Raises:
        InputError: the file is missing or malformed, has an unknown column, a row without images, or names that are
            used twice or cannot be folders.
    """
    if not path:
        raise InputError("No list of pairs was given; name a CSV or JSON file with --pairs.")
    path = Path(path)
    rows = pair_rows(path)
    entries: list[Entry] = []
    taken: set[str] = set()
    for number, row in enumerate(rows, start=1):
        entry = _entry(row, number, path, columns)
        name = entry.name or _unused(f"{_stem(entry.item['moving'])}_to_{_stem(entry.item['fixed'])}", taken)
        if name.casefold() in taken:
            raise InputError(f"The name {name!r} stands twice in {path}; every pair needs a name of its own.")
        taken.add(name.casefold())
        entries.append(Entry(name, entry.item))
    return entries


def _entry(row: Mapping[str, Any], number: int, path: Path, columns: Sequence[str]) -> Entry:
    item: dict[str, Any] = {}
    for key, value in row.items():
        key = str(key).strip()
        if key not in ("name", *columns):
            near = difflib.get_close_matches(key, columns, n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; known are name, {', '.join(columns)}."
            raise InputError(f"{path} has an unknown column {key!r}{hint}")
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if not isinstance(value, (str, int)) or isinstance(value, bool) or not str(value).isprintable():
            raise InputError(f"Pair {number} of {path} has {value!r} as {key}; give text.")
        item[key] = _value(key, str(value).strip(), number, path)
    name = item.pop("name", "")
    for role in ("moving", "fixed"):
        if role not in item:
            raise InputError(f"Pair {number} of {path} has no {role} image; every pair needs moving and fixed.")
    if name and not is_folder_name(name):
        raise InputError(
            f"Pair {number} of {path} is called {name!r}, which cannot be the name of a folder; change it."
        )
    return Entry(name, item)


def _value(key: str, text: str, number: int, path: Path) -> Any:
    if key == "name":
        return text
    if key in FRAMES:
        if not text.isascii() or not text.isdigit():
            raise InputError(f"Pair {number} of {path} has {text!r} as {key}; give the number of a frame, from 0.")
        return int(text)
    return str(path.parent / text)


def is_folder_name(name: str) -> bool:
    """Whether a folder of this name lies directly in the output folder, on every file system."""
    plain = not re.search(r'[\x00-\x1f<>:"/\\|?*]', name)
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
