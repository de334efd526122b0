# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``summarise``: one table of all results in the folder of a cohort, in constant memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.errors import InputError
from ..common.files import whole_file
from ..common.tables import plain_cell
from ..workflow.cohort.case import FAILED, NOTHING_FOUND, RECORD, REGISTERED, last_record
from ..workflow.cohort.summary import FACTS, row_of, texts

CHUNK = 2_000  # rows of a table in memory at a time


def summarise(output_dir: str, table: str | None = None) -> dict[str, Any]:
    """Summarises all results in the folder of a cohort, e.g. after the tasks of a Slurm array.

    Args:
        output_dir: folder of the cohort.
        table: the table to write, .csv or .parquet; summary.csv in the folder by default.

    Returns:
        "registered", "nothing_found", "failed", "pairs": numbers of pairs; "metrics": mean, sd and n by name;
        "table": the file.

    Raises:
        InputError: no results, a table of another kind, or one that cannot be written.
    """
    folder = Path(output_dir)
    path = folder / "summary.csv" if table is None else Path(table)
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"The table must be a .csv or .parquet file, got {path}.")
    counts, sums, columns = dict.fromkeys((REGISTERED, NOTHING_FOUND, FAILED), 0), {}, dict.fromkeys(FACTS)
    for frame in _frames(folder):
        for status, number in frame["status"].value_counts().items():
            counts[status] += int(number)
        for key in frame.columns.difference(FACTS, sort=False):
            columns[key] = None
            values = frame[key].dropna().to_numpy(float)
            sums[key] = sums.get(key, 0) + np.array([len(values), values.sum(), (values**2).sum()])
    total = sum(counts.values())
    if not total:
        raise InputError(f"{folder} contains no results of a cohort; give its --output_dir.")
    with whole_file(path) as part:
        _write_table(part, _frames(folder), list(columns))
    metrics = {k: {"mean": s / n, "sd": float(max(q / n - (s / n) ** 2, 0)) ** 0.5, "n": int(n)}
               for k, (n, s, q) in sums.items() if n}  # fmt: skip
    return {**counts, "metrics": metrics, "pairs": total, "table": str(path)}


def _frames(folder: Path) -> Iterator[pd.DataFrame]:
    """The rows of all results below a folder, a chunk at a time."""
    rows: list[dict] = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if RECORD in files:
            folders.clear()
            row = row_of(last_record(Path(root)) or {"name": Path(root).name, "status": FAILED})
            rows.append(row | texts(row))
        if len(rows) >= CHUNK:
            yield pd.DataFrame(rows)
            rows = []
    if rows:
        yield pd.DataFrame(rows)


def _write_table(path: Path, frames: Iterable[pd.DataFrame], columns: list[str]) -> None:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            for number, frame in enumerate(frames):
                frame = frame.assign(**{k: frame[k].map(plain_cell) for k in FACTS if k in frame})
                frame.reindex(columns=columns).to_csv(stream, index=False, header=number == 0, lineterminator="\n")
        return
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError("Parquet needs the package pyarrow: pip install pyarrow, or write a .csv table.") from error
    numbers = {"matches": pa.int64(), "seconds": pa.float64()}
    kinds = [(k, numbers.get(k, pa.string()) if k in FACTS else pa.float64()) for k in columns]
    with pq.ParquetWriter(path, pa.schema(kinds)) as writer:
        for frame in frames:
            if "trusted" in frame:
                frame = frame.assign(trusted=frame["trusted"].map(str, na_action="ignore"))
            writer.write_table(pa.Table.from_pandas(frame.reindex(columns=columns), pa.schema(kinds), False))
