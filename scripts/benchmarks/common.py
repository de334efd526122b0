# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Shared by the benchmarks: runs the shipped config on many pairs without writing results, and prints tables."""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from tqdm import tqdm

from ..common.bundle import BUNDLE
from ..common.device import pick_device
from ..correspondence.result import Registration
from ..data.batches import image_batch
from ..data.pair import Pair, one_pair
from ..metrics.pair import pair_metrics
from ..workflow.options import check_options
from ..workflow.run import with_sam_overlay


@dataclass(frozen=True, eq=False)
class Case:
    """One registered pair of a benchmark.

    Attributes:
        name: of the pair.
        pair: the images; None after the pair has been measured, because thirty of them do not fit in memory.
        result: the registration; None after the pair has been measured.
        matches: number of matched regions.
        metrics: see :func:`scripts.metrics.pair.pair_metrics`.
        seconds: wall time of loading, registering and measuring.
    """

    name: str
    pair: Pair | None
    result: Registration | None
    matches: int
    metrics: dict
    seconds: float


class Registrar:
    """The parts of ``configs/samreg.json`` with some values replaced, applied to one pair after another.

    Args:
        options: values by key of the config.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        files = [str(BUNDLE / "configs" / name) for name in with_sam_overlay(["samreg.json"], options)]
        check_options(files, options)
        parser = ConfigParser()
        parser.read_config(files)
        parser.update({"bundle_root": str(BUNDLE), "progress": False, **options})
        self.load = parser.get_parsed_content("preprocessing")
        self.network = parser.get_parsed_content("network")
        self.inferer = parser.get_parsed_content("inferer")
        self.device = next(self.network.parameters()).device

    def __call__(self, name: str, item: dict) -> Case:
        began = time.perf_counter()
        batch = one_pair([self.load(item)])
        image, _, _, extra = image_batch(batch, self.device)
        result = self.inferer(image, self.network, **extra)
        pair = batch["pair"]
        metrics = pair_metrics(pair, pair.on_fixed_grid(result.ddf))
        return Case(name, pair, result, len(result.matches), metrics, time.perf_counter() - began)


def run_cases(items: Iterable[tuple[str, dict]], options: dict[str, Any], show: Callable[[Case], str]) -> list[Case]:
    """Registers every pair, printing a line for each."""
    registrar = Registrar(options)
    cases = []
    items = list(items)
    with tqdm(items, unit="pair", file=sys.stderr) as bar:
        for name, item in bar:
            cases.append(replace(registrar(name, item), pair=None, result=None))
            bar.write(f"{name}: {show(cases[-1])}, {cases[-1].seconds:.1f} s", file=sys.stdout)
            sys.stdout.flush()
    return cases


def mean_sd(values: Iterable[float | None]) -> str:
    """Mean and standard deviation as text; missing values are ignored."""
    known = [v for v in values if v is not None]
    return f"{np.mean(known):.3f} ± {np.std(known):.3f}" if known else "-"


def staged(metric: dict) -> list[str]:
    """The stages that a metric has, initial first."""
    return [s for s in ("initial", "aligned", "final") if s in metric]


def print_structures(cases: list[Case], names: dict[int, str], leave_out: tuple[int, ...] = ()) -> None:
    """Table of Dice, HD95 and centroid error per structure over all cases, every stage beside the others."""
    write = sys.stdout.write
    stages = staged(cases[-1].metrics["dice"])
    for key, title in (("dice", "Dice"), ("hd95_mm", "HD95 (mm)"), ("centroid_mm", "TRE of centroids (mm)")):
        write(f"\n| {title} | " + " | ".join(stages) + " |\n|---|" + "---|" * len(stages) + "\n")
        kept = [v for v in names if v not in leave_out]
        for value in kept:
            cells = [mean_sd(c.metrics[key].get(s, {}).get(str(value)) for c in cases) for s in stages]
            write(f"| {names[value]} | " + " | ".join(cells) + " |\n")
        means = []
        for stage in stages:
            rows = [[c.metrics[key].get(stage, {}).get(str(v)) for v in kept] for c in cases]
            rows = [[v for v in row if v is not None] for row in rows]
            means.append(mean_sd(float(np.mean(r)) if r else None for r in rows))
        write(f"| **mean** ({len(cases)} pairs) | " + " | ".join(means) + " |\n")
    fields = [c.metrics["field"] for c in cases if "field" in c.metrics]
    matched = mean_sd(c.matches for c in cases)
    write(f"\nregistered {len(fields)} of {len(cases)} pairs; matched regions {matched}\n")
    for key, title in (
        ("folds_percent", "folds (%)"),
        ("sdlogj", "SDlogJ (det + 3)"),
        ("sdlogj_plain", "SDlogJ (plain)"),
    ):
        write(f"{title}: {mean_sd(f[key] for f in fields)}, worst {max((f[key] for f in fields), default=0):.4f}\n")
    write(f"seconds per pair: {mean_sd(c.seconds for c in cases)} on {hardware()}\n")


def hardware() -> str:
    """The machine as text."""
    if torch.cuda.is_available() and pick_device().type == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{torch.get_num_threads()} threads of {model}, torch {torch.__version__}"
