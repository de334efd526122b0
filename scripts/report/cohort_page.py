# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The page of a cohort: counts, mean and spread, distributions before and after, and a table with links to cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from ..metrics.assembly import LABEL_METRICS, STAGES, TITLES
from .page import render
from .panels import png

PLOTTED = ("dice", "hd95_mm", "tre_mm")
MOST_STRUCTURES = 20  # in one plot


def cohort_page(summary: Mapping[str, Any], pages: set[str]) -> str:
    """The page as text, from the content of summary.json and the names of the pairs that have a report.html."""
    rows, metrics = summary["pairs"], summary["metrics"]
    shown = [key for key in (*LABEL_METRICS, "tre_mm") if f"{key}/mean/initial" in metrics]
    columns = [f"{key}/mean/{stage}" for key in shown for stage in ("initial", "final")]
    worst_first = sorted(rows, key=lambda r: (r["status"] != "failed", *_badness(r)))
    return render(
        "cohort.html.j2",
        title=f"Cohort of {len(rows)} pairs",
        summary=summary,
        failures=[(r["name"], r.get("error", "failed")) for r in rows if r["status"] == "failed"],
        warnings=[(r["name"], sentence) for r in rows for sentence in r.get("warnings", ())],
        means=_means(metrics, shown),
        plots=[
            (f"{TITLES[key]} by structure", png(plot, axes=True))
            for key in PLOTTED
            if (plot := distribution(rows, key))
        ],
        header=["pair", "status", "regions", "seconds"]
        + [f"{TITLES[key]}, {stage}" for key in shown for stage in ("initial", "final")],
        rows=[
            {
                "name": r["name"],
                "page": r["name"] in pages,
                "status": r["status"],
                "numbers": [r.get(key) for key in ("matches", "seconds", *columns)],
            }
            for r in worst_first
        ],
    )


def _badness(row: Mapping[str, Any]) -> tuple[float, float]:
    """Low overlap first, then large landmark errors; pairs without numbers last."""
    return row.get("dice/mean/final", 1.0), -row.get("tre_mm/mean/final", 0.0)


def _means(metrics: Mapping[str, Any], shown: Sequence[str]) -> list[list]:
    rows = []
    for key in shown:
        entries = [metrics.get(f"{key}/mean/{stage}") for stage in STAGES]
        rows.append([TITLES[key], *(_spread(e) for e in entries), entries[0]["n"]])
    for key in ("folds_percent", "sdlogj", "sdlogj_plain"):
        if entry := metrics.get(f"field/{key}"):
            rows.append([TITLES[key], None, None, _spread(entry), entry["n"]])
    return rows


def _spread(entry: Mapping[str, float] | None) -> str | None:
    return f"{entry['mean']:.4g} ± {entry['sd']:.2g}" if entry else None


def distribution(rows: Sequence[Mapping[str, Any]], key: str):
    """Draws one metric of all pairs, a box before and one after for each structure; None without numbers."""
    names = dict.fromkeys(k.split("/")[1] for row in rows for k in row if k.startswith(f"{key}/") and k.count("/") == 2)
    names = [n for n in names if key != "tre_mm" or n == "mean"][:MOST_STRUCTURES]
    values = {
        stage: [[r[f"{key}/{n}/{stage}"] for r in rows if f"{key}/{n}/{stage}" in r] for n in names]
        for stage in ("initial", "final")
    }
    if not any(len(v) > 1 for v in values["final"]):
        return None

    def draw(axis: Axes) -> None:
        for shift, (stage, colour) in zip((-0.2, 0.2), (("initial", "tab:gray"), ("final", "tab:blue"))):
            places = [i + shift for i in range(len(names))]
            drawn = axis.boxplot(values[stage], positions=places, widths=0.3, patch_artist=True, manage_ticks=False)
            for box in drawn["boxes"]:
                box.set(facecolor=colour, alpha=0.4)
            drawn["boxes"][0].set_label("before" if stage == "initial" else "after")
            for place, points in zip(places, values[stage]):
                axis.plot([place] * len(points), points, ".", color=colour, markersize=4)
        axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axis.set_ylabel(TITLES[key])
        axis.legend()

    return draw
