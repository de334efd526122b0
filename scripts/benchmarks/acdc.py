# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""ROI registration on ACDC, end-diastole to end-systole: ``python -m scripts.benchmarks.acdc --data_dir DATA``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import fire
import nibabel as nib

from scripts.benchmarks.common import Case, print_structures, run_cases

NAMES = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}


def centre_crop(source: Path, target: Path, side: int) -> str:
    """Writes the in-plane centre of an image, ``side`` pixels wide, at its true place in space."""
    image = nib.load(source)
    start = [max(0, (n - side) // 2) for n in image.shape[:2]]
    nib.save(image.slicer[start[0] : start[0] + side, start[1] : start[1] + side], target)
    return str(target)


def acdc_pairs(data_dir: str, subset: str, folder: str, crop: int) -> list[tuple[str, dict]]:
    """(patient, item) of every patient of a split: moving is end-diastole, fixed end-systole."""
    root = Path(data_dir)
    items = []
    for patient in json.loads((root / "splits" / "acdc.json").read_text(encoding="utf-8"))[subset]:
        info = dict(
            line.split(": ")
            for line in (root / "acdc" / patient / "Info.cfg").read_text(encoding="utf-8").splitlines()
            if line
        )
        item = {}
        for role, phase in (("moving", "ED"), ("fixed", "ES")):
            stem = f"{patient}_frame{int(info[phase]):02d}"
            for key, ending in ((role, ""), (f"{role}_label", "_gt")):
                name = f"{stem}{ending}.nii.gz"
                item[key] = centre_crop(root / "acdc" / patient / name, Path(folder) / name, crop)
        items.append((patient, item))
    return items


def main(data_dir: str, subset: str = "validation", crop: int = 128, limit: int | None = None, **options: Any) -> None:
    """Registers every patient of a split and prints the table.

    Args:
        data_dir: folder with ``acdc/`` and ``splits/acdc.json``.
        subset: "validation" or "training".
        crop: in-plane side in pixels; slices stay native.
        limit: only so many patients.
        options: any key of configs/samreg.json.
    """

    def show(case: Case) -> str:
        dice = case.metrics["dice"]
        return f"Dice {dice['initial']['mean']:.3f} -> {dice.get('final', dice['initial'])['mean']:.3f}"

    with tempfile.TemporaryDirectory() as folder:
        items = acdc_pairs(data_dir, subset, folder, crop)[:limit]
        options = {"window": "mr", **options}
        print_structures(run_cases(items, options, show), NAMES)


if __name__ == "__main__":
    fire.Fire(main)
