# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The summary of many pairs: one row per pair, initial values beside final ones, mean and sd over the pairs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...common.errors import InputError
from ...common.staging import staged
from ...common.tables import write_csv
from ...metrics.assembly import STAGES
from ...metrics.tables import flat_metrics, summarise_rows
from ...report.cohort_page import cohort_page
from ..guard import sole_writer
from .case import FAILED, NOTHING_FOUND, REGISTERED
from .pairs import SUMMARIES

FACTS = ("name", "status", "error", "moving", "fixed", "matches", "seconds", "warnings", "doubts", "trusted")
TEXTS = ("warnings", "doubts")  # lists of sentences
MANY = 10_000  # pairs above which summary.json and report.html leave out the rows, which summary.csv has
WAIT_S = 60.0  # for another shard that writes its summary


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
    return {**count(rows), **facts, "metrics": summarise_rows(rows, FACTS), "pairs": rows}


def count(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Numbers of pairs by status, and of "doubted" and "untrusted" ones."""
    counts = dict.fromkeys((REGISTERED, NOTHING_FOUND, FAILED, "doubted", "untrusted"), 0)
    for row in rows:
        counts[row["status"]] += 1
        counts["doubted"] += "doubts" in row
        counts["untrusted"] += not row.get("trusted", True)
    return counts


def end_rows(metrics: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """The last two rows of a ``summary.csv``: mean and sd over the pairs."""
    return [{"name": name, **{key: value[name] for key, value in metrics.items()}} for name in ("mean", "sd")]


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The means of a summary as text: a line per metric, mean ± sd over the pairs, and the number of pairs."""
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
    """Replaces ``summary.csv``, whose last two rows are mean and sd, ``summary.json`` and ``report.html`` together.

    Raises:
        InputError: they cannot be written, e.g. because the disk is full.
    """
    metrics, rows = summary["metrics"], summary["pairs"]
    columns = dict.fromkeys([*FACTS, *metrics])
    short = summary if len(rows) <= MANY else {**summary, "pairs": [r for r in rows if r["status"] == FAILED][:MANY]}
    pages = {row["name"] for row in short["pairs"] if (folder / row["name"] / "report.html").exists()}
    text = json.dumps(short, indent=2, allow_nan=False, ensure_ascii=False)
    try:  # shards that end at the same time take turns
        with sole_writer(folder, WAIT_S), staged(folder, "summary.json", SUMMARIES) as part:
            write_csv(part / "summary.csv", [columns | row | texts(row) for row in [*rows, *end_rows(metrics)]])
            (part / "summary.json").write_text(text, encoding="utf-8", errors="backslashreplace")
            page = cohort_page(short, pages)
            (part / "report.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(
            f"Writing the summary to {folder} failed ({error.strerror or error}); an earlier one is unchanged."
        ) from error


def texts(row: Mapping[str, Any]) -> dict[str, str]:
    """The sentences of a row as one cell each."""
    return {key: " | ".join(row[key]) for key in TEXTS if row.get(key)}
