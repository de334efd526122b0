# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Tables of methods: numbers of each pair go in, means beside each other come out, as Markdown and CSV.

The numbers of a pair are a flat mapping with keys like "dice/mean/final": :func:`scripts.engine.cohort.flat_metrics`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Pairs = Sequence[Mapping[str, Any]]


class Statistic(NamedTuple):
    """Mean and standard deviation over pairs; nan without any.

    Attributes:
        mean: of the pairs that have the number.
        sd: standard deviation (population), or the standard error of a difference.
    """

    mean: float
    sd: float

    def __str__(self) -> str:
        return "-" if np.isnan(self.mean) else f"{self.mean:.3f} ± {self.sd:.3f}"


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.csv`` that :class:`scripts.engine.cohort.CohortTable` wrote, numbers as numbers."""
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return [{k: v if k == "name" else float(v or "nan") for k, v in row.items()} for row in csv.DictReader(stream)]


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with the columns that any of them has; only a complete file replaces an old one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(k for row in rows for k in row)))
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def numbers(pairs: Pairs, key: str) -> np.ndarray:
    """One number of every pair; nan where it is missing."""
    return np.asarray([np.nan if p.get(key) is None else p[key] for p in pairs], dtype=float)


def statistic(pairs: Pairs, key: str) -> Statistic:
    """Mean and standard deviation of one number over the pairs that have it."""
    known = numbers(pairs, key)
    known = known[~np.isnan(known)]
    return Statistic(float(known.mean()), float(known.std())) if len(known) else Statistic(np.nan, np.nan)


def gain(pairs: Pairs, others: Pairs, key: str) -> Statistic:
    """Mean over pairs of what the first has more than the second, and its standard error; pairs meet by name.

    Raises:
        ValueError: the two were not measured on the same pairs.
    """
    theirs = {p["name"]: p for p in others}
    if {p["name"] for p in pairs} != set(theirs):
        raise ValueError(f"{len(pairs)} and {len(others)} pairs of different names cannot be compared.")
    more = numbers(pairs, key) - numbers([theirs[p["name"]] for p in pairs], key)
    more = more[~np.isnan(more)]
    if len(more) < 2:
        return Statistic(float(more.mean()) if len(more) else np.nan, np.nan)
    return Statistic(float(more.mean()), float(more.std(ddof=1) / np.sqrt(len(more))))


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines).replace("| --- ", "|---")
