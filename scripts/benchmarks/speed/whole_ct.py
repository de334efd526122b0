# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Time and memory of registering a whole CT pair: ``python -m scripts.benchmarks.speed.whole_ct``.

The pair is the abdomen phantom, rendered on a coarse grid, resampled to full size, with fresh noise. The registration
runs in a separate process, exactly as a user starts it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ...common.bundle import BUNDLE
from ...data.phantoms.abdomen import abdomen_pair
from ..common import hardware

COARSER = 4  # the phantom is rendered with voxels this many times longer
NOISE_HU = 12.0
LOOK_S = 0.1  # time between two readings of the memory


def write_pair(folder: Path, shape: Sequence[int], spacing: Sequence[float], labels: bool) -> dict[str, Path]:
    """Writes both images, and on request their label maps, as compressed NIfTI; returns the paths by role."""
    coarse = tuple(max(2, n // COARSER) for n in shape)
    pair = abdomen_pair(0, coarse, tuple(n * s / c for n, s, c in zip(shape, spacing, coarse)), noise=0.0)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    generator = np.random.default_rng(0)
    paths = {}
    for role in ("moving", "fixed"):
        image = _enlarged(getattr(pair, role), shape, "trilinear")
        for k in range(shape[2]):
            image[..., k] += generator.normal(0, NOISE_HU, shape[:2]).astype(np.float32)
        paths[role] = folder / f"{role}.nii.gz"
        nib.save(nib.Nifti1Image(image.clip(-1024, 3071).round().astype(np.int16), affine), paths[role])
        if labels:
            paths[f"{role}_label"] = folder / f"{role}_label.nii.gz"
            label = _enlarged(getattr(pair, f"{role}_label"), shape, "nearest-exact").astype(np.uint8)
            nib.save(nib.Nifti1Image(label, affine), paths[f"{role}_label"])
    return paths


def _enlarged(array: NDArray, shape: Sequence[int], mode: str) -> NDArray:
    tensor = torch.from_numpy(array.astype(np.float32))[None, None]
    return F.interpolate(tensor, tuple(shape), mode=mode)[0, 0].numpy()


def main(
    shape: Sequence[int] = (512, 512, 300),
    spacing: Sequence[float] = (0.8, 0.8, 1.5),
    preset: str = "abdomen_ct",
    labels: bool = False,
    output_dir: str | None = None,
    **options,
) -> None:
    """Registers a synthetic CT pair from the command line and prints one JSON line.

    Args:
        shape: voxels of both images.
        spacing: mm.
        preset: see the option of ``register``.
        labels: gives the registration the label maps to measure.
        output_dir: where to write; a temporary folder if None.
        options: more options of ``register``.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pair(Path(folder), shape, spacing, labels)
        out = Path(output_dir or Path(folder) / "out")
        words = [str(paths["moving"]), str(paths["fixed"]), str(out), "--preset", preset, "--progress", "False"]
        options |= {role: str(path) for role, path in paths.items() if role.endswith("label")}
        words += [f"--{key}={value}" for key, value in options.items()]
        began = time.perf_counter()
        process = psutil.Popen([sys.executable, "-m", "scripts", "register", *words], cwd=BUNDLE)
        peak, busy = 0, 0.0
        while True:
            try:
                process.wait(LOOK_S)
                break
            except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
                peak, busy = max(peak, process.memory_info().rss), sum(process.cpu_times()[:2])
        seconds = time.perf_counter() - began
        if process.returncode:
            sys.exit(process.returncode)
        record = json.loads((out / "correspondence.json").read_text(encoding="utf-8"))
        size = sum(path.stat().st_size for path in out.iterdir())
    numbers = {
        "shape": list(shape),
        "working": record["working_grid"]["shape"],
        "pairs": len(record["pairs"]),
        "peak_gb": round(peak / 1e9, 2),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(busy, 1),
        "stages": record["seconds"],
        "dice": {stage: values["mean"] for stage, values in record["metrics"].get("dice", {}).items()},
        "folds_percent": record["metrics"].get("field", {}).get("folds_percent"),
        "result_mb": round(size / 2**20),
        "machine": hardware(),
    }
    sys.stdout.write(json.dumps(numbers) + "\n")


if __name__ == "__main__":
    fire.Fire(main)
