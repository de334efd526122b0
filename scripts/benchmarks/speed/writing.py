# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Memory and time of writing a large result: ``python -m scripts.benchmarks.speed.writing``.

The result is synthetic: noise in HU, nested and overlapping ellipsoids as region pairs, and a smooth field.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import fire
import numpy as np
import torch
from torch import Tensor

from ...common.memory import peak_memory_mb
from ...correspondence.matching import Matches
from ...correspondence.region_masks import RegionMasks
from ...correspondence.regions import Regions
from ...correspondence.result import Registration
from ...correspondence.slicing import plan_slices
from ...data.pair import Pair, working_grid
from ...data.reader import Volume
from ...spatial.geometry import Geometry
from ...spatial.warp import resize_ddf
from ...workflow.memory import writing_mb
from ...workflow.outputs import SaveRegistration

STATUS = Path("/proc/self/status")


def synthetic(
    shape: Sequence[int], spacing: Sequence[float], regions: int, max_size: int = 256
) -> tuple[Pair, Registration, Tensor]:
    """A pair, a registration of it, and the images (1, 2, *working.shape) in [0, 1] on the working grid."""
    generator = np.random.default_rng(0)
    grid = Geometry(tuple(shape), np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))
    label = np.zeros((1, *shape), np.uint8)
    label[0, shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2, shape[2] // 4 : shape[2] // 2] = 1
    volumes = []
    for role in ("moving", "fixed"):
        image = generator.integers(-125, 275, (1, *shape), np.int16).astype(np.float32)
        volumes.append((Volume(image, grid, f"{role}.nii.gz", None, np.int16), Volume(label, grid, f"{role} labels")))
    working = working_grid(grid, max_size)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, s) for s in working.shape], indexing="ij")
    masks = torch.zeros(regions, *working.shape, dtype=torch.uint8)
    for k in range(regions):
        centre = generator.uniform(-0.5, 0.5, 3)
        distance = sum(
            ((a - float(c)) / float(r)) ** 2 for a, c, r in zip(axes, centre, generator.uniform(0.1, 0.4, 3))
        )
        masks[k][distance < 1] = 255
    places = torch.stack([(m > 0).nonzero().float().mean(dim=0) for m in masks])
    side = Regions(torch.ones(regions, 4), masks.flatten(1).gt(0).sum(1), places, None, plan_slices(working))
    index, score = torch.arange(regions), torch.linspace(0.99, 0.8, regions)
    coarse = torch.from_numpy(generator.normal(0, 1, (1, 3, 5, 5, 5))).float()
    (moving, moving_label), (fixed, fixed_label) = volumes
    pair = Pair(moving, fixed, np.eye(4), working, moving_label, fixed_label)
    result = Registration(
        side,
        side,
        Matches(index, index, score, score, 0.99),
        RegionMasks(masks),
        RegionMasks(masks),
        resize_ddf(coarse, working.shape) / 10,
    )
    return pair, result, torch.rand(1, 2, *working.shape)


def main(
    shape: Sequence[int] = (512, 512, 300),
    spacing: Sequence[float] = (0.8, 0.8, 1.5),
    regions: int = 30,
    output_dir: str | None = None,
) -> None:
    """Writes a synthetic result and prints one JSON line.

    Args:
        shape: voxels of both images.
        spacing: mm.
        regions: number of region pairs.
        output_dir: where to write; a temporary folder if None.
    """
    pair, result, image = synthetic(shape, spacing, regions)
    before, began = _restart_peak(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = SaveRegistration(output_dir or folder)({"image": image, "pair": pair, "pred": result})
        size = sum((Path(output_dir or folder) / name).stat().st_size for name in out["files"])
    numbers = {
        "shape": list(shape),
        "regions": regions,
        "before_mb": round(before),
        "peak_mb": round(_peak_mb()),
        "estimated_mb": round(writing_mb(pair, regions)),
        "bytes_per_voxel": round((_peak_mb() - before) * 2**20 / np.prod(shape), 1),
        "seconds": round(time.perf_counter() - began, 1),
        "result_mb": round(size / 2**20),
    }
    sys.stdout.write(json.dumps(numbers) + "\n")


def _restart_peak() -> float:
    """Resident memory in MB at which the peak is reset; making the synthetic data needs more than writing."""
    if STATUS.exists():
        STATUS.with_name("clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    """Largest resident memory since :func:`_restart_peak`, on Linux; elsewhere since the start of the process."""
    if not STATUS.exists():
        return peak_memory_mb()
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    fire.Fire(main)
