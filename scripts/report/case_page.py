# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The page of one registration: before and after, the regions that drove it, numbers, settings, doubts."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from torch import Tensor

from ..correspondence.result import Registration
from ..spatial.warp import warp
from .page import details, method_line, page, picture, table, warnings
from .panels import Draw, best_view, png

LONGEST = 640  # pixels of the longer side of the pictures
STILL_VOX, FOLDED_PERCENT, FEW_PAIRS = 0.1, 1.0, 3  # below, above and below which a result is doubtful
PICTURES = {
    "Matched regions with their scores": {
        "moving": "regions in the moving image",
        "fixed": "regions in the fixed image",
    },
    "Checkerboards": {"before": "checkerboard before", "after": "checkerboard after"},
    "Deformation": {"grid": "deformation grid", "jacobian": "Jacobian determinant with folds marked"},
}
NAMES = {"dice": "Dice", "hd95_mm": "HD95 (mm)", "tre_mm": "TRE (mm)"}

SCRIPT = """<script>
const stage=document.getElementById('stage'),tops=[...stage.querySelectorAll('img.top')];let timer=null;
const pick=n=>tops.forEach(t=>t.hidden=t.dataset.name!==n);
document.getElementById('slider').oninput=e=>stage.style.setProperty('--x',e.target.value+'%');
document.querySelectorAll('input[name=which]').forEach(r=>r.onchange=e=>pick(e.target.value));
document.getElementById('flicker').onclick=()=>{if(timer){clearInterval(timer);timer=null;return}
let on=false;timer=setInterval(()=>{on=!on;stage.style.setProperty('--x',on?'100%':'0%')},450)};
</script>"""


def case_page(record: Mapping[str, Any], pictures: Mapping[str, bytes], panels: Mapping[str, Draw]) -> str:
    """The page as text.

    Args:
        record: the content of correspondence.json.
        pictures: PNG of one slice by name: "fixed", "before" and, with a field, "after", all of one size.
        panels: of :func:`scripts.report.panels.panels`.
    """
    names = [Path(record[role]).name for role in ("moving", "fixed")]
    title = f"{names[0]} → {names[1]}"
    body = [f"<h1>{escape(title)}</h1>", *method_line(record), *warnings([*record["warnings"], *doubts(record)])]
    body += ["<h2>Before and after</h2>", comparison(pictures)]
    body += ["<h2>Numbers</h2>", table(("", "initial", "aligned", "final"), metric_rows(record["metrics"]))]
    if "field" in record["metrics"]:
        body.append(table(("field", ""), list(record["metrics"]["field"].items())))
    for heading, names in PICTURES.items():
        there = [picture(png(panels[name]), alt) for name, alt in names.items() if name in panels]
        if there:
            body += [f"<h2>{heading}</h2>", f'<div class="row">{"".join(there)}</div>']
    body += ["<h2>Matched regions, most decisive first</h2>", region_table(record["pairs"])]
    body += ["<h2>How</h2>", details("settings", record["parameters"]), details("seconds", record["seconds"])]
    body.append(details("versions", record["versions"]))
    return page(title, body)


def comparison(pictures: Mapping[str, bytes]) -> str:
    """The fixed image under the moving one, with a slider, a choice of before and after, and a flicker."""
    shown = [n for n in ("after", "before") if n in pictures]
    tops = "".join(
        picture(pictures[n], n, f' class="top" data-name="{n}"' + ("" if n == shown[0] else " hidden")) for n in shown
    )
    radios = "".join(
        f'<label><input type="radio" name="which" value="{n}"{" checked" if n == shown[0] else ""}> moving {n}</label>'
        for n in shown
    )
    return (
        f'<div class="stage" id="stage">{picture(pictures["fixed"], "fixed")}{tops}<div class="bar"></div></div>'
        '<div class="controls">'
        '<label>moving <input type="range" id="slider" min="0" max="100" value="50"> fixed</label>'
        f'{radios}<button id="flicker">flicker</button></div>{SCRIPT}'
    )


def metric_rows(metrics: Mapping[str, Any]) -> list[list]:
    """Rows of a table: the mean of each metric, then its structures, a column a stage."""
    rows = []
    for key, name in NAMES.items():
        stages = metrics.get(key, {})
        for part in ["mean", *(p for p in stages.get("initial", {}) if p.isdigit())] if stages else []:
            label = f"{name}, mean" if part == "mean" else f"{name}, label {part}"
            rows.append([label, *(stages.get(s, {}).get(part) for s in ("initial", "aligned", "final"))])
    return rows


def region_table(pairs: list[Mapping[str, Any]]) -> str:
    """Matched regions by score times size, which is their weight in the field, with how far their centres lie apart."""
    unit = "mm2" if pairs and "mm2" in pairs[0]["fixed"] else "mm3"
    ordered = sorted(pairs, key=lambda p: -p["score"] * math.sqrt(p["fixed"][unit]))
    rows = [
        [
            p["number"], p["score"], p["similarity"], p["moving"][unit], p["fixed"][unit],
            math.dist(p["moving"]["centroid_ras_mm"], p["fixed"]["centroid_ras_mm"]),
        ]
        for p in ordered
    ]  # fmt: skip
    return table(("pair", "score", "similarity", f"moving {unit}", f"fixed {unit}", "centres apart (mm)"), rows)


def doubts(record: Mapping[str, Any]) -> list[str]:
    """What the numbers give reason to look at, one sentence each."""
    said = []
    field = record["metrics"].get("field")
    voxel = min(record["working_grid"]["spacing_mm"])
    if field and field["mean_displacement_mm"] < STILL_VOX * voxel:
        said.append(
            f"The mean displacement is {field['mean_displacement_mm']:.3g} mm, less than {STILL_VOX:g} voxel: next to "
            "nothing was moved."
        )
    if field and field["folds_percent"] > FOLDED_PERCENT:
        said.append(f"{field['folds_percent']:.3g} % of the field folds; raise --smoothness or keep --diffeomorphic.")
    if 1 < len(record["pairs"]) < FEW_PAIRS:
        said.append(f"Only {len(record['pairs'])} pairs of regions were found; far from them the field is a guess.")
    for key, name in NAMES.items():
        stages = record["metrics"].get(key, {})
        first, last = (stages.get(s, {}).get("mean") for s in ("initial", "final"))
        if first is not None and last is not None and (last < first if key == "dice" else last > first):
            said.append(f"{name} is worse than before: {first:.4g}, now {last:.4g}.")
    return said


def slice_pictures(image: Tensor, result: Registration, spacing: tuple[float, ...]) -> dict[str, bytes]:
    """PNG of the slice that most matched regions cross, with square pixels: "fixed", "before", and "after".

    Args:
        image: (2C, *shape) the working pair in [0, 1], moving channels first.
        result: the registration on the same grid.
        spacing: mm of that grid.
    """
    view = best_view(result, spacing)
    moving, fixed = image.chunk(2)
    volumes = {"fixed": fixed, "before": moving}
    if result.ddf is not None:
        volumes["after"] = warp(moving[None].float(), result.ddf.cpu())[0]
    return {name: _grey_png(view(volume), *view.pixel_mm) for name, volume in volumes.items()}


def _grey_png(array: NDArray, rows_mm: float, columns_mm: float) -> bytes:
    height, width = array.shape[0] * rows_mm, array.shape[1] * columns_mm
    scale = LONGEST / max(height, width)
    drawn = Picture.fromarray(np.rint(array.clip(0, 1) * 255).astype(np.uint8))
    stream = io.BytesIO()
    drawn.resize((max(1, round(width * scale)), max(1, round(height * scale))), Picture.Resampling.BILINEAR).save(
        stream, "PNG"
    )
    return stream.getvalue()
