# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Tables as CSV: whole files only, and safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import whole_file

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+|inf|nan)(e[+-]?\d+)?", re.IGNORECASE)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet evaluates such a cell, which can run programs


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows by column, complete or not at all; the columns are those of all rows, in order of appearance."""
    safe = [{plain_cell(k): plain_cell(v) for k, v in row.items()} for row in rows]
    with whole_file(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(k for row in safe for k in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(safe)


def plain_cell(value: Any) -> Any:
    """A value that no spreadsheet evaluates: text that begins like a formula gets an apostrophe."""
    if not isinstance(value, str):
        return value
    formula = value.startswith(FORMULA) and not NUMBER.fullmatch(value)
    return ("'" if formula else "") + value.replace("\r", " ")  # csv leaves \r unquoted, and it would end the row
