# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Dice of a bundled network per structure on the validation subjects, and the time of one image.

``python -m scripts.benchmarks.models.masks cardiac --data_dir DATA``
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import fire
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ...common.device import pick_device
from ...data.reader import read_volume
from ...masks.build import build_source
from ...masks.redraw import RedrawnSource
from ...masks.source import MaskSource
from ...metrics.overlap import dice
from ...training.masks import labelled_items
from ..common import hardware, mean_sd

DATASETS = {"cardiac": "acdc", "abdomen": "abdomen_ct"}
LEFT_OUT = "gallbladder"  # not among the 12 organs of the registration paper


class Scored(NamedTuple):
    """One image.

    Attributes:
        dice: of every structure on the native grid.
        network: the same before redrawing; None without redrawing.
        wall: seconds from file to label map.
        cpu: CPU seconds of the same.
        redrawing: wall seconds of the redrawing.
    """

    dice: dict[str, float]
    network: dict[str, float] | None
    wall: float
    cpu: float
    redrawing: float


def score(source: MaskSource, item: Mapping[str, str]) -> Scored:
    """Measures one image.

    Args:
        source: the network; its structures have the values 1, 2, ... in the reference label map.
        item: paths "image" and "label".
    """
    began, busy = time.perf_counter(), time.process_time()
    volume, again = read_volume(item["image"]), isinstance(source, RedrawnSource)
    first = (source.source if again else source)(volume, source.offered)
    drawn = time.perf_counter()
    labels = source.redrawn(volume, first) if again else first.labels
    end, cpu = time.perf_counter(), time.process_time() - busy
    truth = torch.from_numpy(np.rint(read_volume(item["label"]).array[0]).astype(np.int64))

    def against_truth(found: NDArray) -> dict[str, float]:
        scores = dice(torch.from_numpy(found.astype(np.int64)), truth, range(1, len(source.offered) + 1))
        return {name: scores[v] for v, name in enumerate(source.offered, start=1) if bool((truth == v).any())}

    network = against_truth(first.labels) if again else None
    return Scored(against_truth(labels), network, end - began, cpu, end - drawn)


def means(images: Sequence[dict[str, float]]) -> list[float]:
    """Mean of every image over its structures that count."""
    return [float(np.mean([v for name, v in scores.items() if name != LEFT_OUT])) for scores in images]


def main(
    net: str,
    data_dir: str,
    part: str = "validation",
    checkpoint: str | None = None,
    device: str = "auto",
    redraw: bool = False,
    first: int = 0,
    limit: int | None = None,
    **options,
) -> None:
    """Prints the table.

    Args:
        net: "cardiac" or "abdomen".
        data_dir: folder with acdc, abdomen_ct and splits.
        part: see :func:`scripts.data.splits.split_of`; settings are chosen on "inner_validation".
        checkpoint: weights; the bundled ones if None.
        device: auto, cpu, cuda or mps.
        redraw: lets LiteMedSAM redraw the masks, and also measures those of the network.
        first: number of images to skip.
        limit: largest number of images.
        options: further arguments of :class:`scripts.masks.bundled.BundledNet`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    source = build_source(net, {"checkpoint": checkpoint, **options}, redraw=redraw).to(pick_device(device))
    results = []
    with tqdm(labelled_items(data_dir, DATASETS[net], part)[first:][:limit], unit="image", file=sys.stderr) as bar:
        for item in bar:
            results.append(score(source, item))
            shown = ", ".join(f"{name} {value:.3f}" for name, value in results[-1].dice.items())
            seconds = f"{results[-1].wall:.1f} s, {results[-1].cpu:.1f} s of CPU"
            bar.write(f"{Path(item['image']).name}: {shown}; {seconds}", file=sys.stdout)
            sys.stdout.flush()
    tables = {"Dice, mean ± sd | lowest": [r.dice for r in results]}
    if redraw:
        tables["network alone | lowest"] = [r.network for r in results]
    out = sys.stdout.write
    out(f"{len(results)} images of {part} subjects\n")
    out(f"| structure | {' | '.join(tables)} |\n|---|{'---|---|' * len(tables)}\n")
    for name in source.offered:
        rows = [[scores[name] for scores in table if name in scores] for table in tables.values()]
        out(f"| {name} | {' | '.join(f'{mean_sd(row)} | {np.min(row):.3f}' for row in rows)} |\n")
    rows = [means(table) for table in tables.values()]
    out(f"| mean | {' | '.join(f'{mean_sd(row)} | {np.min(row):.3f}' for row in rows)} |\n")
    wall, cpu, redrawing = np.asarray([r[2:] for r in results]).T
    out(f"an image: {np.median(wall):.1f} s (median), {wall.max():.1f} s at most, {np.median(cpu):.1f} s of CPU time")
    out(f", redrawing {np.median(redrawing):.1f} s (median); {hardware()}\n" if redraw else f"; {hardware()}\n")


if __name__ == "__main__":
    fire.Fire(main)
