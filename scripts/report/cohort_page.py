# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The page of a cohort: how many, mean and spread beside the start, and a row a pair that leads to its own page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote

from .page import Html, method_line, page, table, warnings

NAMES = {"dice": "Dice", "hd95_mm": "HD95 (mm)", "tre_mm": "TRE (mm)"}
STAGES = ("initial", "aligned", "final")


def cohort_page(summary: Mapping[str, Any], pages: set[str]) -> str:
    """The page as text.

    Args:
        summary: the content of summary.json.
        pages: names of the pairs that have a report.html in their folder.
    """
    rows, metrics = summary["pairs"], summary["metrics"]
    title = f"Cohort of {len(rows)} pairs"
    counts = f"{summary['registered']} registered, {summary['nothing_found']} without matched regions, "
    body = [f"<h1>{title}</h1>", f"<p>{counts}{summary['failed']} failed; {summary['seconds']} s in the last run</p>"]
    body += method_line(summary)
    body += warnings([f"{r['name']}: {r.get('error', 'failed')}" for r in rows if r["status"] == "failed"])
    means = []
    for key, name in NAMES.items():
        entries = [metrics.get(f"{key}/mean/{stage}") for stage in STAGES]
        if any(entries):
            means.append([name, *(_spread(e) for e in entries), entries[0]["n"]])
    for key, name in (("folds_percent", "folds (%)"), ("sdlogj", "SDlogJ (det + 3)"), ("sdlogj_plain", "SDlogJ")):
        if entry := metrics.get(f"field/{key}"):
            means.append([name, None, None, _spread(entry), entry["n"]])
    body += ["<h2>Mean ± standard deviation over pairs</h2>", table(("", *STAGES, "pairs"), means)]
    shown = [key for key in NAMES if f"{key}/mean/initial" in metrics]
    header = ["pair", "status", "regions", "seconds"]
    header += [f"{NAMES[key]}, {stage}" for key in shown for stage in ("initial", "final")]
    lines = []
    for r in sorted(rows, key=lambda r: (r["status"] != "failed", r.get("dice/mean/final", 1.0))):
        name = escape(r["name"])
        link = f'<a href="{quote(r["name"])}/report.html">{name}</a>' if r["name"] in pages else name
        numbers = [r.get(f"{key}/mean/{stage}") for key in shown for stage in ("initial", "final")]
        status = Html(f'<span class="failed">{r["status"]}</span>') if r["status"] == "failed" else r["status"]
        lines.append([Html(link), status, r.get("matches"), r.get("seconds"), *numbers])
    body += ["<h2>Pairs, worst first</h2>", table(header, lines)]
    return page(title, body)


def _spread(entry: Mapping[str, float] | None) -> str | None:
    return f"{entry['mean']:.4g} ± {entry['sd']:.2g}" if entry else None
