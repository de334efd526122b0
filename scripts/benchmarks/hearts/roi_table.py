# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Tables 2 to 4 of Huang et al. 2024 on ACDC: sources of regions, numbers of pairs, least similarity.

``python -m scripts.benchmarks.hearts.roi_table --data_dir DATA``.
Each image is segmented once; all settings share its regions. A region is a 3-D one, linked through the slices, and the
field follows the regions alone, as in the paper; ``--linking slice`` counts regions of single slices.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import fire
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...correspondence.referee import overlap
from ...correspondence.result import working_image
from ...data.batches import image_batch
from ...data.pair import one_pair
from ...data.structures import on_working_grid
from ...metrics.pair import pair_metrics
from ...roi.dense import roi_to_dense
from ...spatial.warp import identity_grid, warp
from ...workflow.outcome import plain_errors
from ..common import Registrar, hardware, mean_sd
from .acdc import acdc_items

METRICS = {
    "dice": "Dice",
    "centroid_mm": "TRE of centroids (mm)",
    "centroid_rms": "TRE, RMS (mm)",
    "hd95_mm": "HD95 (mm)",
}
SOURCES = {
    "label_dice": "Dice of labels",
    "label_tre": "TRE of labels, RMS (mm)",
    "pseudo_dice": "Dice of SAM's regions",
    "pseudo_tre": "TRE of SAM's regions, RMS (mm)",
}
EPSILON = 0.8
# 3-D regions alone, whatever the defaults are.
PAPER = {"linking": "link", "image_weight": 0.0, "discrete": False, "check": False}


class Setting(NamedTuple):
    """One row of the table: the largest number of pairs (None for all) and their least similarity."""

    pairs: int | None
    epsilon: float


def settings(pairs: Sequence[int], epsilons: Sequence[float], epsilon: float) -> list[Setting]:
    """Every number of pairs at the usual epsilon, then every epsilon with all pairs."""
    rows = [Setting(k, epsilon) for k in pairs] + [Setting(None, e) for e in sorted({*epsilons, epsilon})]
    return list(dict.fromkeys(rows))


class Segmented:
    """A pair whose regions are known, registered again and again with other settings.

    Args:
        registrar: model and inferer.
        item: the pair.
    """

    def __init__(self, registrar: Registrar, item: dict) -> None:
        self.inferer = registrar.inferer
        batch = one_pair([registrar.load(item)])
        self.pair = batch["pair"]
        self.image, self.working = working_image(image_batch(batch, registrar.device)[0])
        halves = self.image.chunk(2)
        window = self.inferer.window(*halves, self.working, registrar.network)
        self.regions = [
            self.inferer.regions(half, self.working, registrar.network, role, window)
            for half, role in zip(halves, ("moving", "fixed"))
        ]
        self._known: dict[str, dict] = {}

    def __call__(self, setting: Setting) -> dict:
        """Metrics of the pair and "matches"; settings that choose the same regions are registered once."""
        matcher = self.inferer.matcher
        matcher.max_pairs, matcher.epsilon = setting
        linked = self.inferer.links(self.regions[0].plan, self.working)
        matches = matcher(*self.regions, self.working, within_slices=not linked)
        key = str((matches.moving.tolist(), matches.fixed.tolist()))
        if key not in self._known:
            result = self.inferer.from_regions(*self.regions, self.image, self.working)
            self._known[key] = self.measured(result.ddf) | {"matches": len(matches)}
        return self._known[key]

    def measured(self, ddf: Tensor | None) -> dict:
        """Metrics of a field (1, n, *shape) on the working grid, with the root mean square of the centroid errors."""
        metrics = pair_metrics(self.pair, self.pair.on_fixed_grid(ddf))
        metrics["centroid_rms"] = {
            stage: {"mean": rms(v for k, v in values.items() if k != "mean")}
            for stage, values in metrics["centroid_mm"].items()
        }
        return metrics

    def sources(self) -> dict[str, dict[str, float]]:
        """Table 2: fields of SAM's regions and of the label maps, measured on either.

        Returns:
            by source "SAM" and "labels": "label_dice" and "label_tre" on the label maps, "pseudo_dice" and
            "pseudo_tre" on SAM's matched regions (TRE as the root mean square of the centroid errors, mm).
        """
        matcher = self.inferer.matcher
        matcher.max_pairs, matcher.epsilon = None, EPSILON
        found = self.inferer.from_regions(*self.regions, self.image, self.working)
        pseudo = found.moving_masks.whole(), found.fixed_masks.whole()
        labels = self.label_masks()
        fields = {"SAM": found.ddf, "labels": roi_to_dense(*labels, self.working.spacing, self.inferer.settings).ddf}
        rows = {}
        for source, ddf in fields.items():
            ddf = torch.zeros(1, self.working.ndim, *self.working.shape) if ddf is None else ddf
            metrics = self.measured(ddf)
            rows[source] = {
                "label_dice": metrics["dice"]["final"]["mean"],
                "label_tre": metrics["centroid_rms"]["final"]["mean"],
                "pseudo_dice": overlap(ddf, pseudo),
                "pseudo_tre": rms(centroid_errors(ddf, *pseudo, self.working.spacing)),
            }
        return rows

    def label_masks(self) -> tuple[Tensor, Tensor]:
        """Label maps of both images as masks (K, *shape) uint8 on the working grid."""
        maps = on_working_grid(self.pair, self.pair.moving_label, self.pair.fixed_label)
        values = [v for v in maps[0].unique().tolist() if v and bool((maps[1] == v).any())]
        moving, fixed = (torch.stack([(m == v) * 255 for v in values]).to(torch.uint8) for m in maps)
        return moving, fixed


def rms(errors: Iterable[float | None]) -> float | None:
    """Root mean square of the known errors; None if there are none."""
    known = [e for e in errors if e is not None]
    return float(np.sqrt(np.mean(np.square(known)))) if known else None


def centroid_errors(ddf: Tensor, moving: Tensor, fixed: Tensor, spacing: Sequence[float]) -> list[float]:
    """Distance in mm between the centroids of every moved and fixed mask (K, *shape) that is not empty."""
    grid = identity_grid(tuple(ddf.shape[2:]), ddf.device, ddf.dtype)[0].flatten(1)
    scale, errors = ddf.new_tensor(spacing), []
    for pair in zip(moving, fixed):
        masks = warp(pair[0][None, None].to(ddf), ddf, padding="zeros")[0, 0].flatten(), pair[1].to(ddf).flatten()
        if all(float(m.sum()) > 0 for m in masks):
            a, b = ((grid * m).sum(dim=1) / m.sum() for m in masks)
            errors.append(float(((a - b) * scale).norm()))
    return errors


def main(
    data_dir: str,
    pairs: Sequence[int] = (1, 2, 3, 4),
    epsilons: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9),
    subset: str = "validation",
    crop: int = 128,
    limit: int | None = None,
    **options: Any,
) -> None:
    """Prints the tables; the first row is the state before registration.

    Args:
        data_dir: folder with ``acdc/`` and ``splits/acdc.json``.
        pairs: largest numbers of pairs, besides all.
        epsilons: least similarities of a pair, besides the usual one.
        subset: "validation" or "training".
        crop: in-plane side in pixels, 0 for whole images; slices stay native.
        limit: most patients to register.
        options: any key of configs/samreg.json, e.g. --checkpoint new.pt.
    """
    write = sys.stdout.write
    registrar = Registrar({"window": "mr", **PAPER, **options})
    rows = settings(pairs, epsilons, registrar.inferer.matcher.epsilon)
    results: dict[Setting, list[dict]] = {row: [] for row in rows}
    sources: list[dict[str, dict[str, float]]] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        items = acdc_items(data_dir, subset, folder, crop)[:limit]
        for name, item in tqdm(items, desc="table", unit="patient"):
            segmented = Segmented(registrar, item)
            for row in tqdm(rows, desc=name, unit="setting", leave=False):
                results[row].append(segmented(row))
            sources.append(segmented.sources())
    write(f"\n| pairs | epsilon | {' | '.join(METRICS.values())} | folds (%) | pairs found | without any |\n")
    write("|---|---|" + "---|" * (len(METRICS) + 3) + "\n")
    before = [mean_sd(r[key]["initial"]["mean"] for r in results[rows[0]]) for key in METRICS]
    write(f"| before | | {' | '.join(before)} | | | |\n")
    for row in rows:
        found = results[row]
        # A patient without pairs keeps the state before registration.
        cells = [mean_sd(r[key].get("final", r[key]["initial"])["mean"] for r in found) for key in METRICS]
        folds = mean_sd(r["field"]["folds_percent"] for r in found if "field" in r)
        none = sum(not r["matches"] for r in found)
        write(f"| {row.pairs or 'all'} | {row.epsilon:g} | {' | '.join(cells)} | {folds} | ")
        write(f"{mean_sd(r['matches'] for r in found)} | {none} |\n")
    write(f"\n| regions from | {' | '.join(SOURCES.values())} |\n|---|{'---|' * len(SOURCES)}\n")
    for source in sources[0] if sources else ():
        cells = [mean_sd(s[source][key] for s in sources) for key in SOURCES]
        write(f"| {source} | {' | '.join(cells)} |\n")
    write(f"\n{len(items)} patients, {time.perf_counter() - began:.0f} s on {hardware()}\n")


if __name__ == "__main__":
    plain_errors()
    fire.Fire(main)
