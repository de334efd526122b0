# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How many tokens: quality of masks against time per slice, for compact models of several sizes, trained equally.

``python -m scripts.benchmarks.models.sam_size --data_dir DATA --samples 2400``; ``--samples 0``
measures the time alone.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import fire
import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from tqdm import tqdm

from ...common.bundle import BUNDLE
from ...sam.build import MODELS
from ...workflow.outcome import plain_errors
from ..common import hardware
from ..speed.everything import picture
from .sam import COVERED_IOU, LEAST_SHARE, measured_slices
from .sam_measures import coverage, point_answers
from .sam_models import Model
from .sam_slices import LabelledSlice

BATCH = 4
# Share of the steps that the averaged weights remember; the usual one keeps mostly the start of a short training.
AVERAGED = 0.1


def train(tokens: int, samples: int, folder: Path, data_dir: str | None, slices_dir: str, start: str | None) -> float:
    """Trains a model of one size, or resumes its training, and writes ``compact_sam.pt`` into the folder.

    Args:
        tokens: side of the embedding.
        samples: pairs of views, the same for every size.
        folder: of this training.
        data_dir: folder with ``acdc/``, ``abdomen_ct/`` and ``splits/``; None trains on phantoms and shapes alone.
        slices_dir: where training slices are kept, the same for every size.
        start: weights to begin with, or None.

    Returns:
        seconds that it took this time.
    """
    configs, options = ["train_sam.json"], {}
    if data_dir:
        configs += ["datasets/acdc_sam.json", "datasets/abdomen_ct_sam.json"]
        # Only training looks at the subjects; all sizes are measured in the same way afterwards.
        options = {"data_dir": data_dir, "validate#slices#acdc_dir": None, "validate#slices#abdomen_dir": None}
    began = time.perf_counter()
    workflow = ConfigWorkflow(
        [str(BUNDLE / "configs" / name) for name in configs],
        workflow_type="train",
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=str(BUNDLE / "configs" / "logging.conf"),
        bundle_root=str(BUNDLE),
        output_dir=str(folder),
        weights=str(folder / "compact_sam.pt"),
        dataset_dir=slices_dir,
        initial_weights=start,
        tokens=tokens,
        batch_size=BATCH,
        samples_per_epoch=max(BATCH, samples // 10),
        max_epochs=10,
        ema_momentum=min(1.0, BATCH / (AVERAGED * samples)),
        **{"validate#slices#phantoms": 2, "validate#dataset#length": 2 * BATCH, "train#handlers#0#interval": 10},
        **options,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return time.perf_counter() - began


def seconds_a_slice(model: Model, repeats: int) -> list[float]:
    """Wall time of everything mode on one 256 x 256 slice, after one run that does not count."""
    stack = torch.from_numpy(picture()).permute(2, 0, 1)[None].float()
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        model.everything["other"](model.sam, stack)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def quality(model: Model, slices: Sequence[LabelledSlice], points: int) -> tuple[float, float]:
    """Mean IoU of the best of three masks of a random point, and share of structures that everything mode covers."""
    best, covered = [], []
    for number, one in enumerate(tqdm(slices, desc=model.name, unit="slice", leave=False)):
        best += [a.best for a in point_answers(model.sam, one, points, np.random.default_rng(number))]
        found = coverage(model.sam, one, model.everything[one.kind], model.keep[one.kind], LEAST_SHARE)
        covered += [whole >= COVERED_IOU for whole, _ in found.values()]
    return float(np.mean(best)), float(np.mean(covered)) if covered else float("nan")


def main(
    data_dir: str | None = None,
    tokens: Sequence[int] = (16, 24, 32),
    samples: int = 2400,
    output_dir: str = str(BUNDLE / "runs" / "sam_size"),
    slices_dir: str | None = None,
    initial_weights: str | None = None,
    slices: int = 40,
    points: int = 2,
    repeats: int = 5,
) -> None:
    """Trains at each size for the same number of samples and prints the curve.

    Args:
        data_dir: folder with ``acdc/``, ``abdomen_ct/`` and ``splits/``; None takes phantoms and shapes alone.
        tokens: sizes.
        samples: pairs of views that each model learns from; 0 measures the time of the shipped weights at each size.
        output_dir: of the trainings, one folder a size; a training that was stopped is resumed.
        slices_dir: where training slices are kept; in output_dir if None.
        initial_weights: weights to begin with; they fit every size. None begins with random ones.
        slices: validation slices of each data set.
        points: random points per structure.
        repeats: timed runs of everything mode; the median counts.
    """
    sizes = [tokens] if isinstance(tokens, int) else list(tokens)
    folder = Path(output_dir)
    taken = {}
    for size in sizes if samples else []:
        where = str(slices_dir or folder / "slices")
        taken[size] = train(size, samples, folder / f"{size}_{samples}", data_dir, where, initial_weights)
    pictures = measured_slices(data_dir, "validation", slices, 0) if samples else []
    write = sys.stdout.write
    write(f"{hardware()}; {samples} samples each\n")
    write("| tokens | mask | IoU of a random point | covered | seconds per slice | seconds trained |\n")
    write("|---|---|---|---|---|---|\n")
    models = []
    for size in sizes:
        path = folder / f"{size}_{samples}" / "compact_sam.pt" if samples else MODELS / "compact_sam.pt"
        models.append(Model(f"{size} x {size}", str(path), {"network_def#tokens": size}))
    # The runs take turns, so that other load on the machine affects every size.
    rounds = [[seconds_a_slice(model, 1) for model in models] for _ in range(repeats)]
    for number, (size, model) in enumerate(zip(sizes, models)):
        seconds = list(chain.from_iterable(one[number] for one in rounds))
        spent = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        cells = ["-", "-", spent, "-"]
        if samples:
            best, covered = quality(model, pictures, points)
            cells = [f"{best:.3f}", f"{covered:.1%}", spent, f"{taken[size]:.0f}"]
        write(f"| {model.name} | {4 * size} x {4 * size} | {' | '.join(cells)} |\n")


if __name__ == "__main__":
    plain_errors()
    fire.Fire(main)
