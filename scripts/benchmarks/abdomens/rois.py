# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""ROI registration between abdomens: ``python -m scripts.benchmarks.abdomens.rois --data_dir DATA``."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import fire

from ...data.pair_lists import ct_files
from ...data.splits import split_of
from ..common import Case, print_structures, run_cases

NAMES = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior vena cava",
    10: "portal and splenic vein",
    11: "pancreas",
    12: "right adrenal gland",
    13: "left adrenal gland",
}
GALLBLADDER = 4  # not in the mean, as in the literature: some subjects have none


def abdomen_pairs(data_dir: str, subset: str) -> list[tuple[str, dict]]:
    """(name, item) of every ordered pair of different subjects of a split."""
    subjects = split_of(Path(data_dir) / "splits", "abdomen_ct", subset)
    pairs = []
    for couple in itertools.permutations(subjects, 2):
        sides = zip(("moving", "fixed"), (ct_files(data_dir, name, None) for name in couple))
        pairs.append(
            ("->".join(couple), {f"{role}{end}": str(path) for role, files in sides for end, path in files.items()})
        )
    return pairs


def main(
    data_dir: str, subset: str = "validation", limit: int | None = None, every: int = 1, first: int = 0, **options: Any
) -> None:
    """Registers every ordered pair of a split and prints the table.

    Args:
        data_dir: folder with ``abdomen_ct/`` and ``splits/abdomen_ct.json``.
        subset: "validation" or "training".
        limit: largest number of pairs.
        every: takes every n-th pair.
        first: number of the first pair, from 0.
        options: any key of configs/samreg.json; few masks of CT pass the default pred_iou_thresh, so it is 0.3 here.
    """

    def show(case: Case) -> str:
        dice = case.metrics["dice"]
        return "Dice " + " -> ".join(f"{dice[s]['mean']:.3f}" for s in ("initial", "aligned", "final") if s in dice)

    items = abdomen_pairs(data_dir, subset)[first::every][:limit]
    options = {
        "window": "ct",
        "init": "affine",
        "slice_spacing_mm": 10.0,
        "points_per_side": 12,
        "pred_iou_thresh": 0.3,
        **options,
    }
    print_structures(run_cases(items, options, show), NAMES, leave_out=(GALLBLADDER,))


if __name__ == "__main__":
    fire.Fire(main)
