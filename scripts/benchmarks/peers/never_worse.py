# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Is a result ever worse than its input? ``python -m scripts.benchmarks.peers.never_worse``.

Phantom pairs in random poses (up to 30 degrees, 60 mm, size 0.8 to 1.25), contrasts and fields of view; with
``--data_dir`` also hearts and abdomens whose fixed image gets a random pose through its header, which needs no
resampling. The settings of the start were chosen on the phantoms 0 to 39.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import fire
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...data.pair import LoadPair, Pair
from ...data.reader import Volume, read_volume
from ...metrics.pair import pair_metrics
from ...spatial.geometry import Geometry, apply_affine
from ...workflow.outcome import plain_errors
from ..abdomens.rois import abdomen_pairs
from ..common import Registrar, hardware
from ..hearts.acdc import acdc_items
from .posed import posed_pair, random_pose

NEAR_MM, WORSE = 5.0, 0.02


@dataclass(frozen=True, eq=False)
class Posed:
    """A pair to align.

    Attributes:
        name: of the pair.
        item: for :class:`scripts.data.pair.LoadPair`.
        truth: (4, 4) the right alignment, RAS mm; None if it is not known.
        places: (N, 3) RAS mm in the fixed image, where errors are measured.
    """

    name: str
    item: dict[str, Any]
    truth: NDArray | None = None
    places: NDArray | None = None

    def error_mm(self, transform: NDArray) -> float | None:
        """Mean distance of an alignment from the right one."""
        if self.truth is None:
            return None
        apart = apply_affine(transform, self.places) - apply_affine(self.truth, self.places)
        return float(np.linalg.norm(apart, axis=1).mean())


def phantoms(first: int, count: int, spacing_mm: float) -> Iterator[Posed]:
    """Phantom pairs with labels, see :func:`scripts.benchmarks.peers.posed.posed_pair`."""
    for seed in range(first, first + count):
        posed = posed_pair(seed, spacing_mm)
        p, item = posed.pair, {}
        for role in ("moving", "fixed"):
            grid = Geometry(getattr(p, role).shape, getattr(p, f"{role}_affine"))
            item[role] = Volume(getattr(p, role)[None], grid, f"{role} {seed}")
            item[f"{role}_label"] = Volume(getattr(p, f"{role}_label")[None], grid, f"{role} label {seed}")
        yield Posed(f"{seed} {posed.kind} {posed.contrast}", item, posed.best, posed.body)


def reposed(name: str, item: Mapping[str, Any], seed: int, same_patient: bool) -> Posed:
    """Files of a pair as volumes, where a random pose is written into the header of the fixed image."""
    keys = ("moving", "fixed", "moving_label", "fixed_label")
    volumes = {key: read_volume(item[key], label=key.endswith("label")) for key in keys}
    linear, shift = random_pose(np.random.default_rng([seed, 78]))
    grid = volumes["fixed"].geometry
    middle = apply_affine(grid.affine, (np.asarray(grid.shape) - 1) / 2)
    pose = np.eye(4)  # from the new fixed world to the original one
    pose[:3, :3], pose[:3, 3] = linear, middle + shift - linear @ middle
    for key in ("fixed", "fixed_label"):
        volumes[key] = replace(volumes[key], geometry=Geometry(grid.shape, np.linalg.inv(pose) @ grid.affine))
    image = volumes["fixed"].array[0]
    bright = np.argwhere(image > np.percentile(image, 50))[::97]
    places = apply_affine(volumes["fixed"].geometry.affine, bright)
    return Posed(name, volumes, pose if same_patient else None, places)


def real(data_dir: str, every: int, folder: str) -> Iterator[Posed]:
    """Training hearts (the same patient, whose pose is known) and pairs of abdomens (different subjects)."""
    for seed, (name, item) in enumerate(acdc_items(data_dir, "training", folder, 0)[:: every or None]):
        yield reposed(f"heart {name}", item, seed, same_patient=True)
    for seed, (name, item) in enumerate(abdomen_pairs(data_dir, "training")[:: 4 * every or None]):
        yield reposed(f"abdomen {name}", item, 500 + seed, same_patient=False)


def mean_dice(pair: Pair, ddf=None) -> dict[str, float | None]:
    """Mean Dice of the labels by stage."""
    return {stage: values["mean"] for stage, values in pair_metrics(pair, ddf).get("dice", {}).items()}


def main(
    first: int = 1000,
    count: int = 40,
    spacing_mm: float = 5.0,
    register: int = 0,
    data_dir: str | None = None,
    every: int = 8,
    **options: Any,
) -> None:
    """Aligns every pair, registers some of them, and prints a line for each and the counts.

    Args:
        first: seed of the first phantom.
        count: number of phantoms.
        spacing_mm: their voxel size.
        register: number of phantoms that are also registered by regions, a minute each.
        data_dir: folder with ``acdc/``, ``abdomen_ct/`` and ``splits/``; None takes phantoms only.
        every: takes every n-th patient, and every 4n-th pair of abdomens.
        options: any key of configs/samreg.json, for the registration.
    """
    write = sys.stdout.write
    load, registrar = LoadPair(init="affine"), Registrar({"init": "affine", **options}) if register else None
    errors, seconds, unsaid = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        cases = [*phantoms(first, count, spacing_mm)]
        cases += [] if data_dir is None else real(data_dir, every, folder)
        for number, case in enumerate(tqdm(cases, unit="pair")):
            began = time.perf_counter()
            batch = load(case.item)
            seconds.append(time.perf_counter() - began)
            pair: Pair = batch["pair"]
            doubts, stages = list(pair.start.doubts), mean_dice(pair)
            if registrar is not None and number < min(register, count):
                done = registrar(case.name, case.item)
                stages = {s: v["mean"] for s, v in done.metrics["dice"].items()}
                doubts += done.result.doubts
            error = case.error_mm(pair.transform)
            errors += [] if error is None else [error]
            shown = {"before": case.error_mm(np.eye(4)), "after": error}
            numbers = "  ".join(f"error {k} {v:.1f} mm" for k, v in shown.items() if v is not None)
            scores = "  ".join(f"Dice {k} {v:.3f}" for k, v in stages.items() if v is not None)
            write(f"{case.name}: {pair.start.kind}  {numbers}  {scores}  {' '.join(doubts)}\n")
            sys.stdout.flush()
            known = [v for v in stages.values() if v is not None]
            if known and known[-1] < known[0] - WORSE and not doubts:
                unsaid.append(case.name)
    near = sum(e <= NEAR_MM for e in errors)
    write(f"\nalignment within {NEAR_MM:g} mm: {near} of {len(errors)}, median {np.median(errors):.2f} mm\n")
    write(f"Dice more than {WORSE} worse without a doubt: {len(unsaid)} of {len(cases)} {', '.join(unsaid)}\n")
    write(f"{np.mean(seconds):.1f} s per pair for loading and aligning on {hardware()}\n")


if __name__ == "__main__":
    plain_errors()
    fire.Fire(main)
