# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Images that ``--method auto`` recognises as hearts: ``python -m scripts.benchmarks.hearts.found --data_dir DATA``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fire
import numpy as np
from tqdm import tqdm

from ...data.pair_lists import acdc_frames
from ...data.reader import Volume, read_volume
from ...data.splits import split_of
from ...masks.build import build_source
from ...spatial.geometry import Geometry
from ...workflow.method import HEART, is_heart

IN_PLANE_MM, SLICE_MM, SIDE, SLICES = 2.0, 8.0, 128, 10  # of a stack cut from CT, like a short-axis one


def hearts(data_dir: Path, subset: str, step: int) -> Iterator[Volume]:
    """Every ``step``-th patient of a split of ACDC, end-diastole and end-systole."""
    for patient in split_of(data_dir / "splits", "acdc", subset)[::step]:
        folder = data_dir / "acdc" / patient
        yield from (read_volume(folder / f"{stem}.nii.gz") for stem in acdc_frames(folder).values())


def stacks(data_dir: Path, step: int) -> Iterator[Volume]:
    """Two stacks of thick slices from every ``step``-th abdominal CT, from its lower end and from its middle."""
    for path in sorted((data_dir / "abdomen_ct").glob("img*"))[::step]:
        volume = read_volume(path)
        wanted = (IN_PLANE_MM, IN_PLANE_MM, SLICE_MM)
        skip = [max(1, round(mm / own)) for mm, own in zip(wanted, volume.geometry.spacing)]
        array = volume.array[:, :: skip[0], :: skip[1], :: skip[2]]
        affine = volume.geometry.affine @ np.diag([*skip, 1])
        x, y = (max(0, (n - SIDE) // 2) for n in array.shape[1:3])
        for z in (0, array.shape[3] // 2):
            part = array[:, x : x + SIDE, y : y + SIDE, z : z + SLICES]
            yield replace(volume, array=part, geometry=Geometry(part.shape[1:], affine))


def main(data_dir: str, step: int = 1) -> None:
    """Prints in how many images of each kind the cardiac network finds a heart.

    Args:
        data_dir: folder with ``acdc/``, ``abdomen_ct/`` and ``splits/``.
        step: takes every n-th patient.
    """
    source, folder = build_source("cardiac"), Path(data_dir)
    kinds = {
        "ACDC, training": hearts(folder, "training", step),
        "ACDC, validation": hearts(folder, "validation", step),
        "stacks of abdominal CT": stacks(folder, step),
    }
    sys.stdout.write("| images | number | taken for a heart |\n|---|---|---|\n")
    for name, volumes in kinds.items():
        found = [
            is_heart(source(v, HEART, "mr").labels, v.geometry.spacing) for v in tqdm(volumes, desc=name, leave=False)
        ]
        sys.stdout.write(f"| {name} | {len(found)} | {sum(found)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    fire.Fire(main)
