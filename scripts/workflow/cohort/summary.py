# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The summary of many pairs: one row per pair, initial values beside final ones, mean and sd over the pairs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...common.errors import InputError
from ...common.files import whole_file
from ...common.staging import staged
from ...common.tables import plain_cell, write_csv
from ...metrics.assembly import STAGES
from ...metrics.tables import flat_metrics, summarise_rows
from ...report.cohort_page import cohort_page
from ..guard import sole_writer
from .case import FAILED, NOTHING_FOUND, RECORD, REGISTERED, last_record
from .pairs import SUMMARIES

FACTS = ("name", "status", "error", "moving", "fixed", "matches", "seconds", "warnings", "doubts", "trusted")
TEXTS = ("warnings", "doubts")  # lists of sentences
MANY = 10_000  # pairs above which summary.json and report.html leave out the rows, which summary.csv has
WAIT_S = 60.0  # for another shard that writes its summary
CHUNK = 2_000  # rows of a table in memory at a time


def row_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """One flat row of a pair's record: its facts, then its metrics."""
    row = {key: record[key] for key in FACTS if record.get(key) not in (None, [])}
    return row | flat_metrics(record.get("metrics", {}))


def summarise(rows: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of many pairs, ready for JSON.

    It has the numbers of pairs by status, "doubted" and "untrusted" ones (neither the initial alignment nor the field
    makes the images agree better), ``facts``, "metrics" (mean, sd of the population and n by key) and "pairs",
    the rows of :func:`row_of` in the order of the list.
    """
    rows = list(rows)
    counts = {status: sum(r["status"] == status for r in rows) for status in (REGISTERED, NOTHING_FOUND, FAILED)}
    counts |= {"doubted": sum("doubts" in r for r in rows), "untrusted": sum(not r.get("trusted", True) for r in rows)}
    return {**counts, **facts, "metrics": summarise_rows(rows, FACTS), "pairs": rows}


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The means of a summary to read: a line a metric, mean ± sd over the pairs, and the number of pairs."""
    lines: dict[str, list[str]] = {}
    for key, value in summary["metrics"].items():
        name, _, stage = key.rpartition("/")
        name, stage = (name, f"{stage} ") if stage in STAGES else (key, "")
        if not name.startswith("tre_mm/") or name == "tre_mm/mean":  # the others describe the landmarks of one pair
            lines.setdefault(name, []).append(f"{stage}{value['mean']:.4g} ± {value['sd']:.2g}")
    counts = f"{len(summary['pairs']) - summary[FAILED]} pairs" + (
        f", {summary[FAILED]} failed" if summary[FAILED] else ""
    )
    return [*(f"{name.replace('/', ' '):<28}{'   '.join(cells)}" for name, cells in lines.items()), counts]


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes ``summary.csv``, whose last two rows are mean and sd, ``summary.json`` and ``report.html``, as one.

    Raises:
        InputError: they cannot be written, e.g. because the disk is full.
    """
    metrics, rows = summary["metrics"], summary["pairs"]
    ends = [{"name": n, **{k: v[n] for k, v in metrics.items()}} for n in ("mean", "sd")]
    columns = dict.fromkeys([*FACTS, *metrics])
    short = summary if len(rows) <= MANY else {**summary, "pairs": [r for r in rows if r["status"] == FAILED][:MANY]}
    pages = {row["name"] for row in short["pairs"] if (folder / row["name"] / "report.html").exists()}
    text = json.dumps(short, indent=2, allow_nan=False, ensure_ascii=False)
    try:  # shards that end at the same time take turns
        with sole_writer(folder, WAIT_S), staged(folder, "summary.json", SUMMARIES) as part:
            write_csv(part / "summary.csv", [columns | row | _text(row) for row in [*rows, *ends]])
            (part / "summary.json").write_text(text, encoding="utf-8", errors="backslashreplace")
            page = cohort_page(short, pages)
            (part / "report.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(
            f"Writing the summary to {folder} failed ({error.strerror or error}); an earlier one is unchanged."
        ) from error


def summarise_folder(output_dir: str | Path, table: str | Path | None = None) -> dict[str, Any]:
    """Summarises all results in the folder of a cohort, e.g. after the shards of a Slurm array, in constant memory.

    Args:
        output_dir: folder of a cohort.
        table: the table to write, ``.csv`` or ``.parquet``; ``summary.csv`` in the folder if None.

    Returns:
        as :func:`summarise`, but "pairs" is the number of pairs, and "table" the file.
    """
    folder = Path(output_dir)
    path = folder / "summary.csv" if table is None else Path(table)
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"The table must be a .csv or .parquet file, got {path}.")
    counts, sums, columns = dict.fromkeys((REGISTERED, NOTHING_FOUND, FAILED), 0), {}, dict.fromkeys(FACTS)
    for frame in _frames(folder, columns):
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
        _write_table(part, _frames(folder, columns), list(columns))
    metrics = {k: {"mean": s / n, "sd": float(max(q / n - (s / n) ** 2, 0)) ** 0.5, "n": int(n)}
               for k, (n, s, q) in sums.items() if n}  # fmt: skip
    return {**counts, "metrics": metrics, "pairs": total, "table": str(path)}


def _frames(folder: Path, columns: Mapping[str, Any]) -> Iterator[pd.DataFrame]:
    """The rows of all results below a folder, a chunk at a time."""
    rows: list[dict] = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if RECORD in files:
            folders.clear()
            rows.append(row_of(last_record(Path(root)) or {"name": Path(root).name, "status": FAILED}))
        if len(rows) >= CHUNK:
            yield pd.DataFrame(rows)
            rows = []
    if rows:
        yield pd.DataFrame(rows)


def _write_table(path: Path, frames: Iterable[pd.DataFrame], columns: list[str]) -> None:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            for number, frame in enumerate(frames):
                frame = frame.assign(**{k: [_safe(v) for v in frame[k]] for k in FACTS if k in frame})
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
            frame = frame.assign(**{k: [_cell(v) for v in frame[k]] for k in ("trusted", *TEXTS) if k in frame})
            writer.write_table(pa.Table.from_pandas(frame.reindex(columns=columns), pa.schema(kinds), False))


def _text(row: Mapping[str, Any]) -> dict[str, str]:
    """The sentences of a row as one cell each."""
    return {key: " | ".join(row[key]) for key in TEXTS if row.get(key)}


def _cell(value: Any) -> str | None:
    """A list of sentences or a truth value as text; None for a missing one."""
    return " | ".join(value) if isinstance(value, list) else str(value) if isinstance(value, bool) else None


def _safe(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula; a list of warnings becomes one text."""
    return plain_cell(" | ".join(value) if isinstance(value, list) else value)
