# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The rows of a list of pairs in a CSV or JSON file."""

from __future__ import annotations

import csv
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.errors import InputError
from ..common.files import read_text, there
from ..spatial.affine import INITS
from ..spatial.transform_files import INVERSE

IMAGES = ("moving", "fixed")
FILES = (*IMAGES, *(f"{role}_{kind}" for kind in ("label", "mask", "exclude", "landmarks") for role in IMAGES))
FRAMES = ("moving_frame", "fixed_frame")


def pair_rows(
    path: str | Path, columns: Sequence[str] | None = None, needed: Sequence[str] = IMAGES
) -> list[dict[str, Any]]:
    """Reads a list of pairs: the values of each by column, files as paths, frames as numbers, everything else as text.

    Args:
        path: CSV or TSV with a header row, or JSON with a list of objects (or {"pairs": [...]}). Paths in it are
            relative to its folder.
        columns: the keys that are accepted besides "name"; None accepts any.
        needed: columns that every row must fill.

    Raises:
        InputError: the file is missing, malformed or empty, has an unknown column, or a row lacks a needed value.
    """
    text, path = read_text(path, "a list of pairs in CSV or JSON"), Path(os.path.expanduser(path))
    rows = _json_rows(text, path) if path.suffix.lower() == ".json" else _csv_rows(text, path)
    if not rows:
        raise InputError(f"The list of pairs {path} has no pairs.")
    return [_row(row, number, path, columns, needed) for number, row in enumerate(rows, start=1)]


def _row(
    row: Mapping[str, Any], number: int, path: Path, columns: Sequence[str] | None, needed: Sequence[str]
) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key, value in row.items():
        key = str(key).strip()
        if columns is not None and key not in ("name", *columns):
            near = difflib.get_close_matches(key, columns, n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; known are name, {', '.join(columns)}."
            raise InputError(f"{path} has an unknown column {key!r}{hint}")
        if value is None or (isinstance(value, str) and value.strip() in ("", "n/a")):  # BIDS writes n/a
            continue
        if key == "transforms" and isinstance(value, list):
            value = ",".join(map(str, value))
        if not isinstance(value, (str, int)) or isinstance(value, bool) or not str(value).isprintable():
            raise InputError(f"Pair {number} of {path} has {value!r} as {key}; give text.")
        given[key] = _value(key, str(value).strip(), number, path)
    for column in needed:
        if column not in given:
            what = f"{column} image" if column in IMAGES else column
            raise InputError(f"Pair {number} of {path} has no {what}; the columns {' and '.join(needed)} are needed.")
    return given


def _value(key: str, text: str, number: int, path: Path) -> Any:
    if key in FRAMES:
        if not text.isascii() or not text.isdigit():
            raise InputError(f"Pair {number} of {path} has {text!r} as {key}; give the number of a frame, from 0.")
        return int(text)
    if key == "transforms":
        return ",".join(_beside(path, name.strip()) for name in text.strip("[]").split(",") if name.strip())
    return _beside(path, text) if key in FILES or (key == "init" and text not in INITS) else text


def _beside(path: Path, name: str) -> str:
    """A file that a list names, relative to the folder of the list."""
    mark, name = (INVERSE, name.removeprefix(INVERSE)) if name.startswith(INVERSE) else ("", name)
    near = path.parent / name
    return mark + str(near if there(near) else path.parent / os.path.expanduser(name))


def _csv_rows(text: str, path: Path) -> list[Mapping[str, Any]]:
    try:
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = list(csv.DictReader(text.splitlines(), strict=True, delimiter=separator))
    except csv.Error as error:
        raise InputError(f"The list of pairs {path} is not valid CSV ({error}).") from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise InputError(
                f"Pair {number} of {path} and its header have different numbers of fields; quote text with commas."
            )
    return rows


def _json_rows(text: str, path: Path) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The list of pairs {path} is not valid JSON ({str(error)[:80]}).") from error
    rows = rows.get("pairs") if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f'{path} must contain a list of objects such as [{{"moving": "a.nii", "fixed": "b.nii"}}].')
    return rows
