# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Warping against SimpleITK, its memory, and residuals of inverses: ``python -m scripts.benchmarks.speed.warp``."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from tqdm import tqdm

from ...common.memory import peak_memory_mb
from ...data.phantoms.abdomen import abdomen_pair
from ...data.phantoms.cardiac import cardiac_pair
from ...spatial.chain import Field
from ...spatial.fields import write_field
from ...spatial.geometry import Geometry, world_displacement
from ...spatial.inversion import invert_chain, round_trip
from ...spatial.itk_transforms import to_itk, vector_image
from ...spatial.resampling import resample_image
from ...spatial.warp import integrate
from ...verbs.warp import warp
from ..common import hardware

SHAPE, SPACING = (256, 256, 150), (1.0, 1.0, 1.5)


def grid(shape: tuple[int, ...] = SHAPE, spacing: tuple[float, ...] = SPACING, degrees: float = 0.0) -> Geometry:
    """A grid around the origin, rotated about the long axis of the patient."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([-spacing[0], -spacing[1], spacing[2]])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine)


def smooth_field(geometry: Geometry, amplitude_vox: float = 4.0) -> Field:
    """A smooth random displacement field, laid out as it comes out of a NIfTI file."""
    coarse = torch.randn(1, 3, 6, 6, 6, generator=torch.Generator().manual_seed(0)) * amplitude_vox
    ddf = torch.nn.functional.interpolate(coarse, geometry.shape, mode="trilinear", align_corners=True)
    return Field(np.asfortranarray(world_displacement(ddf[0].numpy(), geometry).astype(np.float32)), geometry)


def image(geometry: Geometry) -> np.ndarray:
    """A random image (*shape) float32."""
    values = np.random.default_rng(0).random(geometry.shape, np.float32)
    return np.asfortranarray(values)


def as_itk(values: np.ndarray, geometry: Geometry) -> sitk.Image:
    """The image for SimpleITK."""
    converted = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    converted.CopyInformation(vector_image(np.zeros((*geometry.shape, 3), np.float32), geometry))
    return converted


def race(name: str, moving: Geometry, reference: Geometry, field: Field, repeats: int) -> dict:
    """Median seconds of both, run alternately, wall and processor time, and the share of differing voxels."""
    values = image(moving)
    theirs_image, blank = as_itk(values, moving), as_itk(np.zeros(reference.shape, np.float32), reference)
    transform = to_itk([field])

    def ours() -> np.ndarray:
        return resample_image(values[None], moving, reference, [field])[0][0]

    def theirs() -> sitk.Image:
        return sitk.Resample(theirs_image, blank, transform, sitk.sitkLinear, 0.0)

    apart = np.abs(ours() - sitk.GetArrayFromImage(theirs()).T)
    seconds = {"ours": [], "SimpleITK": []}
    for _ in range(repeats):
        for key, call in (("ours", ours), ("SimpleITK", theirs)):
            seconds[key].append(_timed(call))
    wall, processor = ({k: statistics.median(t[i] for t in v) for k, v in seconds.items()} for i in range(2))
    return {
        "name": name,
        **wall,
        "ratio": wall["ours"] / wall["SimpleITK"],
        "processor_ratio": processor["ours"] / processor["SimpleITK"],
        "agree_percent": 100 * float((apart < 1e-3).mean()),
    }


def memory() -> dict:
    """Peak memory of the verb ``warp`` on files, beyond the process with its packages loaded."""
    geometry = grid()
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / n) for n in ("moving.nii.gz", "ddf.nii.gz", "moved.nii.gz")]
        command = [sys.executable, "-m", "scripts.benchmarks.speed.warp", "--only"]
        subprocess.run([*command, "write", "--files", ",".join(files)], check=True)
        run = subprocess.run(
            [*command, "warp", "--files", ",".join(files)], check=True, capture_output=True, encoding="utf-8"
        )
    used = json.loads(run.stdout)
    field_mb = 3 * 4 * np.prod(geometry.shape) / 2**20
    return {**used, "field_mb": field_mb, "times_the_field": used["peak_mb"] / field_mb}


def inverses(seeds: int) -> list[dict]:
    """Residuals of the phantoms' true fields, 95th percentile in voxels (the smallest side) and mm."""
    rows = []
    makers = {"cardiac": cardiac_pair, "abdomen": abdomen_pair}
    for name, seed in tqdm([(n, s) for n in makers for s in range(seeds)], desc="invert", leave=False):
        pair = makers[name](seed)
        fixed, moving = Geometry(pair.fixed.shape, pair.fixed_affine), Geometry(pair.moving.shape, pair.moving_affine)
        field = Field(world_displacement(pair.ddf, fixed).astype(np.float32), fixed)
        began = time.perf_counter()
        _, there, around = invert_chain([field], fixed, moving)
        rows.append({"name": f"{name} {seed}", "seconds": time.perf_counter() - began, "voxel": min(fixed.spacing)}
                    | {"there": there, "around": around})  # fmt: skip
    return rows


def velocities(seeds: int) -> list[dict]:
    """Residuals (mm, 1 mm voxels) of inverting a velocity field's exponential, and of integrating its negative."""
    cube, rows = Geometry((60, 50, 40), np.eye(4)), []
    for seed in range(seeds):
        coarse = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(seed)) * 1.5
        velocity = torch.nn.functional.interpolate(coarse, cube.shape, mode="trilinear", align_corners=True)
        field, negative = (
            Field(world_displacement(integrate(v)[0].numpy(), cube).astype(np.float32), cube)
            for v in (velocity, -velocity)
        )
        _, there, around = invert_chain([field], cube, cube)
        chains = ([negative], [field]), ([field], [negative])
        integrated = [round_trip(*chain, cube, cube) for chain in chains]
        rows.append({"iterated": (there, around), "integrated": integrated})
    return rows


def main(threads: int = 2, repeats: int = 7, seeds: int = 3, only: str | None = None, files: str | None = None) -> None:
    """Prints seconds and their ratio, peak memory, and the residuals of inverses.

    Args:
        threads: of both programs.
        repeats: runs of each; the median counts.
        seeds: phantoms of each kind that are inverted.
        only: "write" or "warp" does one part of the memory measurement; used by the command itself.
        files: paths of moving image, field and result, for ``only``.
    """
    write = sys.stdout.write
    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    if only == "write":
        moving, field, _ = files if not isinstance(files, str) else files.split(",")
        nib.save(nib.Nifti1Image((image(grid()) * 1000).astype(np.int16), grid().affine), moving)
        write_field(field, smooth_field(grid()).u_lps, grid())
        return
    if only == "warp":
        moving, field, moved = files if not isinstance(files, str) else files.split(",")
        rest, began = high_water_mb(), time.perf_counter()
        warp(moving, moved, field, progress=False)
        seconds = time.perf_counter() - began
        write(json.dumps({"peak_mb": high_water_mb() - rest, "seconds_with_files": seconds}) + "\n")
        return
    write(f"{hardware()}, SimpleITK {sitk.Version.VersionString()}, {threads} threads each\n\n")
    write(
        "| warp, 256 x 256 x 150, linear | ours (s) | SimpleITK (s) | ratio | of processor time | voxels that agree |\n"
    )
    write("|---|---|---|---|---|---|\n")
    straight, turned = grid(), grid(degrees=20)
    other = grid((200, 220, 180), (1.2, 1.1, 1.3), -10)
    for name, moving, reference, field in (
        ("one grid", straight, straight, smooth_field(straight)),
        ("oblique, moving grid of another size", other, turned, smooth_field(turned)),
        ("oblique, reference that is not the field's grid", straight, turned, smooth_field(other)),
    ):
        row = race(name, moving, reference, field, repeats)
        write(f"| {name} | {row['ours']:.2f} | {row['SimpleITK']:.2f} | {row['ratio']:.2f} | ")
        write(f"{row['processor_ratio']:.2f} | {row['agree_percent']:.2f} % |\n")
        sys.stdout.flush()
    used = memory()
    write(f"\npeak memory of the command `warp` on files: {used['peak_mb']:.0f} MB over the loaded packages, ")
    write(f"{used['times_the_field']:.2f} times the field ({used['field_mb']:.0f} MB); ")
    write(f"{used['seconds_with_files']:.1f} s with reading and writing .nii.gz\n\n")
    write("| inverse of the true field | p95 (voxel) | p95 (mm) | max (mm) | p95 around (voxel) | outside | s |\n")
    write("|---|---|---|---|---|---|---|\n")
    for row in inverses(seeds):
        there, around = row["there"], row["around"]
        write(
            f"| {row['name']} | {there['p95_mm'] / row['voxel']:.4f} | {there['p95_mm']:.4f} | {there['max_mm']:.3f} | "
        )
        write(f"{around['p95_mm'] / row['voxel']:.4f} | {there['outside_percent']:.1f} % | {row['seconds']:.1f} |\n")
    write("\n| exponential of a random velocity field | p95 (voxel) | p95 around (voxel) |\n|---|---|---|\n")
    rows = velocities(seeds)
    for key, name in (("iterated", "fixed point"), ("integrated", "integral of the negative velocity")):
        medians = [statistics.median(row[key][k]["p95_mm"] for row in rows) for k in range(2)]
        write(f"| {name} | {medians[0]:.4f} | {medians[1]:.4f} |\n")


def high_water_mb() -> float:
    """Largest resident memory of this program alone; ``getrusage`` includes that of the parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_memory_mb()
    lines = status.read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def _timed(call: Callable) -> tuple[float, float]:
    """Wall and processor seconds; the latter hardly depends on other load on the machine."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    fire.Fire(main)
