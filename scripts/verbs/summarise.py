# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``summarise``: one table of all results in the folder of a cohort, in constant memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.errors import InputError
from ..common.files import whole_file
from ..common.tables import plain_cell
from ..workflow.cohort.case import FAILED, NOTHING_FOUND, RECORD, REGISTERED, last_record
from ..workflow.cohort.summary import FACTS, count, end_rows, row_of, texts

CHUNK = 2_000  # rows of a table in memory at a time


def summarise(output_dir: str, table: str | None = None) -> dict[str, Any]:
    """Summarises all results in the folder of a cohort, e.g. after the tasks of a Slurm array.

    Args:
        output_dir: folder of the cohort.
        table: the table to write, .csv or .parquet; summary.csv in the folder by default.

    Returns:
        "registered", "nothing_found", "failed", "doubted", "untrusted", "pairs": numbers of pairs; "metrics": mean, sd
        and n by name; "table": the file. A .csv table ends with a row of means and one of standard deviations, as the
        ``summary.csv`` of a run does; a .parquet table has the pairs alone.

    Raises:
        InputError: no results, a table of another kind, or one that cannot be written.
    """
    folder = Path(output_dir)
    path = folder / "summary.csv" if table is None else Path(table)
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"The table must be a .csv or .parquet file, got {path}.")
    counts, sums, columns = Counter(), {}, dict.fromkeys(FACTS)
    for rows in _chunks(folder):
        counts.update(count(rows))
        frame = pd.DataFrame(rows)
        for key in frame.columns.difference(FACTS, sort=False):
            columns[key] = None
            values = frame[key].dropna().to_numpy(float)
            sums[key] = sums.get(key, 0) + np.array([len(values), values.sum(), (values**2).sum()])
    total = sum(counts[status] for status in (REGISTERED, NOTHING_FOUND, FAILED))
    if not total:
        raise InputError(f"{folder} contains no results of a cohort; give its --output_dir.")
    metrics = {k: {"mean": s / n, "sd": float(max(q / n - (s / n) ** 2, 0)) ** 0.5, "n": int(n)}
               for k, (n, s, q) in sums.items() if n}  # fmt: skip
    with whole_file(path) as part:
        if path.suffix == ".csv":
            _write_csv(part, chain(_chunks(folder), [end_rows(metrics)]), list(columns))
        else:
            _write_parquet(part, _chunks(folder), list(columns))
    return {**counts, "metrics": metrics, "pairs": total, "table": str(path)}


def _chunks(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows of all results below a folder, ``CHUNK`` at a time."""
    rows: list[dict] = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if RECORD in files:
            folders.clear()
            row = row_of(last_record(Path(root)) or {"name": Path(root).name, "status": FAILED})
            rows.append(row | texts(row))
        if len(rows) >= CHUNK:
            yield rows
            rows = []
    if rows:
        yield rows


def _write_csv(path: Path, chunks: Iterable[list[dict]], columns: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        for number, rows in enumerate(chunks):
            frame = pd.DataFrame(rows)
            frame = frame.assign(**{k: frame[k].map(plain_cell) for k in FACTS if k in frame})
            frame.reindex(columns=columns).to_csv(stream, index=False, header=number == 0, lineterminator="\n")


def _write_parquet(path: Path, chunks: Iterable[list[dict]], columns: list[str]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError("Parquet needs the package pyarrow: pip install pyarrow, or write a .csv table.") from error
    numbers = {"matches": pa.int64(), "seconds": pa.float64()}
    kinds = [(k, numbers.get(k, pa.string()) if k in FACTS else pa.float64()) for k in columns]
    with pq.ParquetWriter(path, pa.schema(kinds)) as writer:
        for rows in chunks:
            frame = pd.DataFrame(rows)
            if "trusted" in frame:
                frame = frame.assign(trusted=frame["trusted"].map(str, na_action="ignore"))
            writer.write_table(pa.Table.from_pandas(frame.reindex(columns=columns), pa.schema(kinds), False))
