# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How many region pairs, and how alike: Tables 3 and 4 of Huang et al. 2024 on ACDC, end-diastole to end-systole.

``python -m scripts.benchmarks.hearts.roi_table --data_dir DATA``.
Each image is segmented once; all settings share its regions.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import fire
from tqdm import tqdm

from ...correspondence.result import working_image
from ...data.batches import image_batch
from ...data.pair import one_pair
from ...metrics.pair import pair_metrics
from ...workflow.outcome import plain_errors
from ..common import Registrar, hardware, mean_sd
from .acdc import acdc_items

METRICS = {"dice": "Dice", "centroid_mm": "TRE of centroids (mm)", "hd95_mm": "HD95 (mm)"}


class Setting(NamedTuple):
    """One row of the table: at most so many pairs (None for all), each at least so similar."""

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
            ddf = self.pair.on_fixed_grid(result.ddf)
            self._known[key] = pair_metrics(self.pair, ddf) | {"matches": len(matches)}
        return self._known[key]


def main(
    data_dir: str,
    pairs: Sequence[int] = (1, 2, 3, 4),
    epsilons: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9),
    subset: str = "validation",
    crop: int = 128,
    limit: int | None = None,
    **options: Any,
) -> None:
    """Prints the table; the first row is the state before registration.

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
    registrar = Registrar({"window": "mr", **options})
    rows = settings(pairs, epsilons, registrar.inferer.matcher.epsilon)
    results: dict[Setting, list[dict]] = {row: [] for row in rows}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        items = acdc_items(data_dir, subset, folder, crop)[:limit]
        for name, item in tqdm(items, desc="table", unit="patient"):
            segmented = Segmented(registrar, item)
            for row in tqdm(rows, desc=name, unit="setting", leave=False):
                results[row].append(segmented(row))
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
    write(f"\n{len(items)} patients, {time.perf_counter() - began:.0f} s on {hardware()}\n")


if __name__ == "__main__":
    plain_errors()
    fire.Fire(main)
