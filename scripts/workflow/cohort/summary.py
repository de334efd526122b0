# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The table of a cohort: a row a pair, the initial value beside the final one, and mean and sd over the pairs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...report.cohort_page import cohort_page
from .case import FAILED, NOTHING_FOUND, REGISTERED, write_whole

FACTS = ("name", "status", "error", "moving", "fixed", "matches", "seconds")


def flat_metrics(metrics: Mapping) -> dict[str, float]:
    """Metrics of a pair by keys such as "dice/mean/initial", "hd95_mm/2/final", "tre_mm/mean/final", "field/sdlogj".

    A pair without a field keeps its last stage: that is its final state, and leaving it out would flatter the mean.
    """
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        if "initial" not in value:
            flat |= {f"{key}/{name}": number for name, number in value.items() if isinstance(number, (int, float))}
            continue
        stages = {**value, "final": value.get("final", value.get("aligned", value["initial"]))}
        for name in stages["initial"]:
            flat |= {f"{key}/{name}/{stage}": stages[stage].get(name) for stage in ("initial", "aligned", "final")
                     if stage in stages}  # fmt: skip
    return {k: v for k, v in flat.items() if v is not None}


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
    keys = list(dict.fromkeys(k for row in rows for k in row if k not in FACTS))
    values = {k: [row[k] for row in rows if k in row] for k in keys}
    return {
        **{status: sum(r["status"] == status for r in rows) for status in (REGISTERED, NOTHING_FOUND, FAILED)},
        **facts,
        "metrics": {k: {"mean": float(np.mean(v)), "sd": float(np.std(v)), "n": len(v)} for k, v in values.items()},
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
