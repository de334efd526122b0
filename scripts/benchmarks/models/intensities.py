# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Intensities of the training images: ``python -m scripts.benchmarks.models.intensities --data_dir DATA``."""

from __future__ import annotations

import sys
from pathlib import Path

import fire
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...data.pair_lists import acdc_frames
from ...data.reader import read_volume
from ...data.seen import SHARES, quartiles
from ...data.splits import split_of

CROP = 96  # pixels in plane, as the registration network was trained


def measure(data_dir: str, subset: str) -> dict[str, NDArray]:
    """The SHARES of every image of ACDC, (N, 3): "whole", and "cropped" to the centre.

    Args:
        data_dir: folder with ``acdc/`` and ``splits/acdc.json``.
        subset: "training" or "validation".
    """
    rows: dict[str, list] = {"whole": [], "cropped": []}
    for patient in tqdm(split_of(Path(data_dir) / "splits", "acdc", subset), desc=subset, leave=False):
        folder = Path(data_dir) / "acdc" / patient
        for stem in acdc_frames(folder).values():
            array = read_volume(folder / f"{stem}.nii.gz").array
            start = [max(0, (n - CROP) // 2) for n in array.shape[1:3]]
            centre = array[:, start[0] : start[0] + CROP, start[1] : start[1] + CROP]
            rows["whole"].append(quartiles(array, "mr"))
            rows["cropped"].append(quartiles(centre, "mr"))
    return {name: np.array(values) for name, values in rows.items()}


def main(data_dir: str) -> None:
    """Prints the range of each share of the windowed intensities.

    Args:
        data_dir: folder with ``acdc/`` and ``splits/acdc.json``.
    """
    write = sys.stdout.write
    write(f"| images | {' | '.join(f'{share:.0%} lie below' for share in SHARES)} |\n|---|{'---|' * len(SHARES)}\n")
    for subset in ("training", "validation"):
        for name, values in measure(data_dir, subset).items():
            ranges = [f"{low:.3f} to {high:.3f}" for low, high in zip(values.min(axis=0), values.max(axis=0))]
            write(f"| {subset}, {name} ({len(values)}) | {' | '.join(ranges)} |\n")


if __name__ == "__main__":
    fire.Fire(main)
