# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Tables of methods: from the numbers of each pair to means side by side, as Markdown and CSV.

The numbers of a pair are a flat mapping with keys like "dice/mean/final"
(:func:`scripts.metrics.tables.flat_metrics`).
A line of a table is a flat mapping too: each mean under the name of its column, its spread under that name + "_sd".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Pairs = Sequence[Mapping[str, Any]]

# By column of a table: the number of a pair.
FINAL = {
    "dice": "dice/mean/final",
    "hd95_mm": "hd95_mm/mean/final",
    "sdlogj": "field/sdlogj",
    "sdlogj_plain": "field/sdlogj_plain",
    "folds_percent": "field/folds_percent",
}
INITIAL = {"dice": "dice/mean/initial", "hd95_mm": "hd95_mm/mean/initial"}


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.csv`` (:class:`scripts.workflow.cohort.table.CohortTable`), numbers as numbers."""
    return pd.read_csv(path, dtype={"name": str}).to_dict("records")


def numbers(pairs: Pairs, key: str) -> np.ndarray:
    """One number of every pair; nan where it is missing."""
    return np.asarray([np.nan if p.get(key) is None else p[key] for p in pairs], dtype=float)


def averages(pairs: Pairs, columns: Mapping[str, str]) -> dict[str, float]:
    """Mean and standard deviation of numbers over the pairs that have them; a number that no pair has is omitted.

    Args:
        pairs: the numbers of each pair.
        columns: name of the column by number of a pair.
    """
    line = {}
    for column, key in columns.items():
        known = numbers(pairs, key)
        known = known[~np.isnan(known)]
        if len(known):
            line |= {column: float(known.mean()), f"{column}_sd": float(known.std())}
    return line


def gain(pairs: Pairs, others: Pairs, key: str) -> dict[str, float]:
    """Paired difference of the first and the second: its mean "gain" and its standard error "gain_sd".

    Raises:
        ValueError: the two were not measured on the same pairs.
    """
    theirs = {p["name"]: p for p in others}
    if {p["name"] for p in pairs} != set(theirs):
        raise ValueError(f"{len(pairs)} and {len(others)} pairs of different names cannot be compared.")
    more = numbers(pairs, key) - numbers([theirs[p["name"]] for p in pairs], key)
    more = more[~np.isnan(more)]
    if len(more) < 2:
        return {}
    return {"gain": float(more.mean()), "gain_sd": float(more.std(ddof=1) / math.sqrt(len(more)))}


def markdown(lines: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """A Markdown table; numbers with a spread as mean ± spread.

    Args:
        lines: of the table.
        titles: title by name of a column; a column that no line has is omitted.
    """
    used = {column: title for column, title in titles.items() if any(column in line for line in lines)}
    table = [list(used.values()), ["---"] * len(used)]
    table += [[_cell(line, column) for column in used] for line in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in table)


def _cell(line: Mapping[str, Any], column: str) -> str:
    value = line.get(column, "")
    if isinstance(value, str):
        return value
    return f"{value:.3f} ± {line[f'{column}_sd']:.3f}" if f"{column}_sd" in line else f"{value:.3f}"
