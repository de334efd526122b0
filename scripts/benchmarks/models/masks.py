# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Dice of a bundled network per structure on the validation subjects, and the time of one image.

``python -m scripts.benchmarks.models.masks cardiac --data_dir DATA``
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import fire
import numpy as np
import torch
from tqdm import tqdm

from ...common.device import pick_device
from ...data.reader import read_volume
from ...masks.build import build_source
from ...masks.source import MaskSource
from ...metrics.overlap import dice
from ...training.masks import labelled_items
from ..common import hardware, mean_sd

DATASETS = {"cardiac": "acdc", "abdomen": "abdomen_ct"}
LEFT_OUT = "gallbladder"  # not among the 12 organs of the registration paper


def score(source: MaskSource, item: Mapping[str, str]) -> tuple[dict[str, float], float, float]:
    """Dice of every structure on the native grid, and the wall and CPU seconds from file to label map.

    Args:
        source: the network; its structures have the values 1, 2, ... in the reference label map.
        item: paths "image" and "label".
    """
    began, busy = time.perf_counter(), time.process_time()
    volume = read_volume(item["image"])
    masks = source(volume, source.offered)
    wall, cpu = time.perf_counter() - began, time.process_time() - busy
    truth = torch.from_numpy(np.rint(read_volume(item["label"]).array[0]).astype(np.int64))
    found = torch.from_numpy(masks.labels.astype(np.int64))
    scores = dice(found, truth, range(1, len(source.offered) + 1))
    present = {v for v in scores if bool((truth == v).any())}
    return {name: scores[v] for v, name in enumerate(source.offered, start=1) if v in present}, wall, cpu


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
        part: "validation" or "training".
        checkpoint: weights; the bundled ones if None.
        device: auto, cpu, cuda or mps.
        redraw: lets LiteMedSAM draw the masks again.
        first: images left out at the beginning.
        limit: most images.
        options: further arguments of :class:`scripts.masks.bundled.BundledNet`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    source = build_source(net, {"checkpoint": checkpoint, **options}, redraw=redraw).to(pick_device(device))
    results = []
    with tqdm(labelled_items(data_dir, DATASETS[net], part)[first:][:limit], unit="image", file=sys.stderr) as bar:
        for item in bar:
            results.append(score(source, item))
            scores, wall, cpu = results[-1]
            shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            bar.write(f"{Path(item['image']).name}: {shown}; {wall:.1f} s, {cpu:.1f} s of CPU", file=sys.stdout)
            sys.stdout.flush()
    rows = {name: [r[name] for r, *_ in results if name in r] for name in source.offered}
    wall, cpu = np.asarray([r[1:] for r in results]).T
    out = sys.stdout.write
    out(f"{len(results)} images of {part} subjects\n")
    out("| structure | Dice, mean ± sd | lowest |\n|---|---|---|\n")
    for name, values in rows.items():
        out(f"| {name} | {mean_sd(values)} | {np.min(values):.3f} |\n")
    counted = [name for name in rows if name != LEFT_OUT]
    means = [np.mean([r[n] for n in counted if n in r]) for r, *_ in results]
    out(f"| mean of {len(counted)} | {mean_sd(means)} | {np.min(means):.3f} |\n")
    out(f"an image: {np.median(wall):.1f} s (median), {wall.max():.1f} s at most, ")
    out(f"{np.median(cpu):.1f} s of CPU time; {hardware()}\n")


if __name__ == "__main__":
    fire.Fire(main)
