# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Tables as CSV, whole files only."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.files import whole_file


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with the columns that any of them has, in the order in which they come up.

    Args:
        path: see :func:`scripts.common.files.whole_file`.
        rows: values by column; what a row lacks is left empty.

    Raises:
        InputError: the file cannot be written.
    """
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
