# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Registration of fundus photographs with control points: ``python -m scripts.benchmarks.retina --data_dir DATA``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import fire
import numpy as np

from .common import Case, run_cases


def retina_pairs(data_dir: str, folder: str) -> list[tuple[str, dict]]:
    """(name, item) of every pair of the folder, control points (x1 y1 x2 y2 pixels) split by image."""
    items = []
    for path in sorted((Path(data_dir) / "retina").glob("control_points_*_1_2.txt")):
        name = path.name.split("_")[2]
        points = np.loadtxt(path)
        item = {}
        for number, role in ((1, "fixed"), (2, "moving")):
            item[role] = str(path.with_name(f"{name}_{number}.jpg"))
            item[f"{role}_landmarks"] = str(Path(folder) / f"{name}_{number}.csv")
            np.savetxt(item[f"{role}_landmarks"], points[:, 2 * number - 2 : 2 * number], delimiter=",")
        items.append((name, item))
    return items


def main(data_dir: str, **options: Any) -> None:
    """Registers the pairs and prints the mean control-point error in pixels.

    Args:
        data_dir: folder with ``retina/``.
        options: any key of configs/samreg.json.
    """

    def show(case: Case) -> str:
        errors = case.metrics["tre_mm"]
        text = " -> ".join(f"{errors[s]['mean']:.1f}" for s in ("initial", "aligned", "final") if s in errors)
        return f"control-point error {text} pixels, {case.matches} matched regions"

    with tempfile.TemporaryDirectory() as folder:
        options = {"init": "affine", "points_frame": "voxel", **options}
        cases = run_cases(retina_pairs(data_dir, folder), options, show)
    write = sys.stdout.write
    errors = [{stage: e["mean"] for stage, e in c.metrics["tre_mm"].items()} for c in cases]
    # A pair without regions keeps its initial alignment as its final state.
    errors = [{**e, "final": list(e.values())[-1]} for e in errors]
    for stage in ("initial", "aligned", "final"):
        known = [e[stage] for e in errors if stage in e]
        if known:
            write(f"{stage}: mean control-point error {np.mean(known):.1f} pixels over {len(known)} pairs\n")
    ratio = [e["initial"] / e["final"] for e in errors]
    write("lowered " + ", ".join(f"{c.name} {r:.1f}-fold" for c, r in zip(cases, ratio)) + "\n")


if __name__ == "__main__":
    fire.Fire(main)
