# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Resolution needed for an affine start: ``python -m scripts.benchmarks.abdomens.affine --data_dir DATA``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import fire
import numpy as np
from tqdm import tqdm

from ...data.pair import LoadPair
from ...metrics.pair import pair_metrics
from ..common import hardware, mean_sd
from .rois import GALLBLADDER, abdomen_pairs


def main(
    data_dir: str,
    subset: str = "training",
    every: int = 30,
    limit: int | None = None,
    sizes: Sequence[int] = (48, 64, 96, 160),
) -> None:
    """Aligns pairs of abdomens at several resolutions, and prints the Dice of 12 organs and the time of each.

    Args:
        data_dir: folder with ``abdomen_ct/`` and ``splits/abdomen_ct.json``.
        subset: "training" or "validation".
        every: takes every n-th ordered pair.
        limit: largest number of pairs.
        sizes: largest numbers of voxels along an axis.
    """
    found: dict[int, list] = {size: [] for size in sizes}
    seconds: dict[int, list] = {size: [] for size in sizes}
    initial = []
    for _, item in tqdm(abdomen_pairs(data_dir, subset)[::every][:limit], desc="Pairs"):
        for size in sizes:
            began = time.perf_counter()
            # The working grid must be as fine as the finest of these, because images are first resampled to it.
            pair = LoadPair("ct", "affine", max(sizes), affine_size=size)(item)["pair"]
            seconds[size].append(time.perf_counter() - began)
            stages = pair_metrics(pair, None)["dice"]
            organs = {s: [v for k, v in stages[s].items() if k not in ("mean", str(GALLBLADDER))] for s in stages}
            found[size].append(np.mean([v for v in organs["aligned"] if v is not None]))
        initial.append(np.mean([v for v in organs["initial"] if v is not None]))
    write = sys.stdout.write
    write(f"{hardware()}, {len(initial)} pairs, Dice before {mean_sd(initial)}\n\n")
    write("| voxels per side, at most | Dice after the affine | seconds with reading |\n|---|---|---|\n")
    for size in sizes:
        write(f"| {size} | {mean_sd(found[size])} | {mean_sd(seconds[size])} |\n")


if __name__ == "__main__":
    fire.Fire(main)
