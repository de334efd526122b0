# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""ROI registration of ACDC, ED to ES: ``python -m scripts.benchmarks.hearts.acdc --data_dir DATA``."""

from __future__ import annotations

import tempfile
from typing import Any

import fire

from ...data.pair_lists import acdc_pairs
from ..common import Case, print_structures, run_cases

NAMES = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}


def acdc_items(data_dir: str, subset: str, folder: str, crop: int) -> list[tuple[str, dict]]:
    """(patient, pair) of every patient of a split: moving is end-diastole, fixed end-systole."""
    return [(pair["name"], pair) for pair in acdc_pairs(data_dir, subset, folder, crop)]


def main(data_dir: str, subset: str = "validation", crop: int = 128, limit: int | None = None, **options: Any) -> None:
    """Registers every patient of a split and prints the table.

    Args:
        data_dir: folder with ``acdc/`` and ``splits/acdc.json``.
        subset: "validation" or "training".
        crop: in-plane side in pixels, 0 for whole images; slices stay native.
        limit: largest number of patients.
        options: any key of configs/samreg.json.
    """

    def show(case: Case) -> str:
        dice = case.metrics["dice"]
        return f"Dice {dice['initial']['mean']:.3f} -> {dice.get('final', dice['initial'])['mean']:.3f}"

    with tempfile.TemporaryDirectory() as folder:
        items = acdc_items(data_dir, subset, folder, crop)[:limit]
        options = {"window": "mr", **options}
        print_structures(run_cases(items, options, show), NAMES)


if __name__ == "__main__":
    fire.Fire(main)
