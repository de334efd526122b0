# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Time and memory of long lists, without registering anything: ``python -m scripts.benchmarks.speed.lists``.

``register --dry_run`` plans all ordered pairs of a set of small images. ``evaluate`` gets as many cases, of which only
the first has files, so that the reading, the checks and the tables are measured and not the metrics.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import islice, permutations
from pathlib import Path

import fire
import nibabel as nib
import numpy as np

from ...common.memory import peak_memory_mb
from ...spatial.fields import write_field
from ...spatial.geometry import Geometry
from ...verbs.evaluate import evaluate
from ...verbs.register import register

SHAPE = (8, 8, 2)


def main(pairs: int = 100_000) -> None:
    """Measures a list of this many pairs and prints one JSON line.

    Args:
        pairs: rows of each list.
    """
    numbers = {"pairs": pairs, "libraries_mb": round(peak_memory_mb())}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_list(folder / "pairs.csv", ("moving", "fixed"), image_pairs(folder, pairs))
        write_list(folder / "cases.csv", ("transforms", "moving_label", "fixed_label"), cases(folder, pairs))
        out = str(folder / "out")
        numbers["plan_seconds"] = seconds(lambda: register(pairs=folder / "pairs.csv", output_dir=out, dry_run=True))
        numbers["plan_peak_mb"] = round(peak_memory_mb())
        numbers["evaluate_seconds"] = seconds(lambda: evaluate(folder / "cases.csv", out, progress=False))
        numbers["evaluate_peak_mb"] = round(peak_memory_mb())
        summary = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))
        numbers["missing"] = summary["failed"]
    sys.stdout.write(json.dumps(numbers) + "\n")


def image_pairs(folder: Path, pairs: int) -> Iterable[tuple[str, str]]:
    """All ordered pairs of as many images as needed; writes the images."""
    count = int(np.ceil((1 + np.sqrt(1 + 4 * pairs)) / 2))
    names = [f"{number:04}.nii.gz" for number in range(count)]
    for number, name in enumerate(names):
        nib.save(nib.Nifti1Image(np.full(SHAPE, number, np.int16), np.eye(4)), folder / name)
    return islice(permutations(names, 2), pairs)


def cases(folder: Path, pairs: int) -> Iterable[tuple[str, str, str]]:
    """A case with files, and others without; writes the files."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:5, 2:5] = 1
    nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "label.nii.gz")
    write_field(folder / "field.nii.gz", np.zeros((*SHAPE, 3)), Geometry(SHAPE, np.eye(4)))
    yield "field.nii.gz", "label.nii.gz", "label.nii.gz"
    yield from ((f"{k}/field.nii.gz", f"{k}/moving.nii.gz", f"{k}/fixed.nii.gz") for k in range(1, pairs))


def write_list(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """A CSV file with a header."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of a call."""
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 1)


if __name__ == "__main__":
    fire.Fire(main)
