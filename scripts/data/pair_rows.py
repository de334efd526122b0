# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The rows of a list of pairs as it stands in a CSV or JSON file."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.errors import InputError


def pair_rows(path: str | Path) -> list[Mapping[str, Any]]:
    """Reads a list of pairs, a mapping from column to value each.

    Args:
        path: CSV with a header row, or JSON with a list of objects (or {"pairs": [...]}).

    Raises:
        InputError: the file is missing, malformed or empty.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError, so is text that is not UTF-8
        raise InputError(f"The list of pairs {path} cannot be read; give a CSV or JSON file in UTF-8.") from error
    rows = _json_rows(text, path) if path.suffix.lower() == ".json" else _csv_rows(text, path)
    if not rows:
        raise InputError(f"The list of pairs {path} has no pairs.")
    return rows


def _csv_rows(text: str, path: Path) -> list[Mapping[str, Any]]:
    try:
        rows = list(csv.DictReader(text.splitlines(), strict=True))
    except csv.Error as error:
        raise InputError(f"The list of pairs {path} is no valid CSV ({error}).") from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise InputError(f"Pair {number} of {path} has not as many fields as the header; quote fields with commas.")
    return rows


def _json_rows(text: str, path: Path) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The list of pairs {path} is no valid JSON ({str(error)[:80]}).") from error
    rows = rows.get("pairs") if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f'{path} must hold a list of objects such as [{{"moving": "a.nii.gz", "fixed": "b.nii.gz"}}].')
    return rows
