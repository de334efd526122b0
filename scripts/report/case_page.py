# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The page of one registration: a viewer, numbers, pictures of one slice, the regions that drove it, settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..correspondence.result import Registration
from ..data.pair import Pair
from ..data.segmentations import pair_colours
from ..metrics.assembly import STAGES, TITLES
from .embedded import viewer_data
from .page import niivue, render

PICTURES = {
    "Matched regions with their scores": {
        "moving": "regions in the moving image",
        "fixed": "regions in the fixed image",
    },
    "Checkerboards": {"before": "checkerboard before", "after": "checkerboard after"},
    "Deformation": {"grid": "deformation grid", "jacobian": "Jacobian determinant with folds marked"},
}


def case_page(
    record: Mapping[str, Any],
    settings: Mapping[str, Any],
    pictures: Mapping[str, bytes],
    pair: Pair,
    result: Registration,
    viewer_size: int,
) -> str:
    """The page as text.

    Args:
        record: the content of correspondence.json.
        settings: plain values by name.
        pictures: PNG files by name, see :func:`scripts.report.panels.panels`.
        pair: the images.
        result: the registration.
        viewer_size: longest side in voxels of the embedded volumes; 0 leaves the viewer out.
    """
    code, licence = niivue() if viewer_size else ("", "")
    groups = {
        heading: [(alt, pictures[name]) for name, alt in names.items() if name in pictures]
        for heading, names in PICTURES.items()
    }
    return render(
        "case.html.j2",
        title=" → ".join(Path(record[role]).name for role in ("moving", "fixed")),
        record=record,
        details={"settings": settings, "seconds": record["seconds"], "versions": record["versions"]},
        viewer=viewer_data(pair, result, viewer_size) if viewer_size else None,
        niivue=code,
        viewer_licence=licence,
        metrics=metric_rows(record["metrics"]),
        field=[(TITLES.get(k, k), v) for k, v in record["metrics"].get("field", {}).items()],
        pictures=[(heading, group) for heading, group in groups.items() if group],
        pairs=region_rows(record["pairs"]),
        unit=_unit(record["pairs"]),
    )


def metric_rows(metrics: Mapping[str, Any]) -> list[list]:
    """Rows of a table: the mean of each metric, then its structures, one column per stage."""
    rows = []
    for key, title in TITLES.items():
        stages = metrics.get(key, {})
        for part in ["mean", *(p for p in stages.get("initial", {}) if p.isdigit())] if stages else []:
            label = f"{title}, mean" if part == "mean" else f"{title}, label {part}"
            rows.append([label, *(stages.get(stage, {}).get(part) for stage in STAGES)])
    return rows


def region_rows(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Matched regions by score times the root of their size, which is their weight in the fit of centroids."""
    unit = _unit(pairs)
    colours = pair_colours(max((p["number"] for p in pairs), default=0))
    ordered = sorted(pairs, key=lambda p: -p["score"] * math.sqrt(p["fixed"][unit]))
    return [
        {
            "number": p["number"],
            "colour": "#" + "".join(f"{round(255 * c):02x}" for c in colours[p["number"] - 1]),
            "score": p["score"],
            "similarity": p["similarity"],
            "moving": p["moving"][unit],
            "fixed": p["fixed"][unit],
            "apart": math.dist(p["moving"]["centroid_ras_mm"], p["fixed"]["centroid_ras_mm"]),
        }
        for p in ordered
    ]


def _unit(pairs: Sequence[Mapping[str, Any]]) -> str:
    return "mm2" if pairs and "mm2" in pairs[0]["fixed"] else "mm3"
