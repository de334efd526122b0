# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The table of a cohort: a row a pair, the initial value beside the final one, and mean and sd over the pairs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...metrics.tables import flat_metrics, summarise_rows
from ...report.cohort_page import cohort_page
from .case import FAILED, NOTHING_FOUND, REGISTERED, write_whole

FACTS = ("name", "status", "error", "moving", "fixed", "matches", "seconds")


def summarise(records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of the records of all pairs, in the order of the list; JSON-ready.

    Args:
        records: contents of the pairs' case.json.
        facts: further entries of the summary.

    Returns:
        "registered", "nothing_found", "failed": numbers of pairs; "metrics": mean, sd (population) and n by key;
        "pairs": one flat row a pair.
    """
    rows = []
    for record in records:
        row = {key: record[key] for key in FACTS if record.get(key) is not None}
        rows.append(row | flat_metrics(record.get("metrics", {})))
    return {
        **{status: sum(r["status"] == status for r in rows) for status in (REGISTERED, NOTHING_FOUND, FAILED)},
        **facts,
        "metrics": summarise_rows(rows, FACTS),
        "pairs": rows,
    }


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Writes ``summary.json``, ``summary.csv``, whose last two rows are mean and sd, and ``report.html``."""
    metrics = summary["metrics"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FACTS, *metrics], lineterminator="\n")
    writer.writeheader()
    writer.writerows(summary["pairs"])
    for number in ("mean", "sd"):
        writer.writerow({"name": number, **{k: v[number] for k, v in metrics.items()}})
    write_whole(folder / "summary.csv", text.getvalue())
    write_whole(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False, ensure_ascii=False))
    pages = {row["name"] for row in summary["pairs"] if (folder / row["name"] / "report.html").exists()}
    write_whole(folder / "report.html", cohort_page(summary, pages))
