# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The paper's ablation with our configs: ``python -m scripts.benchmarks.peers.ablation --data_dir DATA``.

Every variant is ``configs/train.json`` with overlays of ``configs/ablation``, trained from random weights with one seed
for one number of epochs, and measured by ``configs/evaluate.json``. Finished parts are not repeated: the command
resumes where it stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fire

from ...common.errors import InputError
from ...common.tables import write_csv
from ...common.weights import read_checkpoint
from ...masks.bundled import MODELS
from ...masks.net import NETS
from ...workflow.outcome import plain_errors
from ..common import hardware
from ..tables import FINAL, INITIAL, Pairs, averages, gain, markdown
from ..workflows import measured, run_configs

VOXELMORPH, CORRELATION, ISOTROPIC, SMALL = NETWORKS = tuple(
    f"ablation/{name}.json" for name in ("voxelmorph", "correlation", "isotropic_pyramid", "small")
)
NO_PROTOTYPE, NO_CONTOUR, NO_DICE = (f"ablation/no_{term}.json" for term in ("prototype", "contour", "dice"))
TRAINED: dict[str, tuple[str, ...]] = {
    "full": (),
    "no_prototype": (NO_PROTOTYPE,),
    "no_contour": (NO_CONTOUR,),
    "no_prototype_no_contour": (NO_PROTOTYPE, NO_CONTOUR),
    "voxelmorph": (VOXELMORPH, NO_PROTOTYPE, NO_DICE, NO_CONTOUR),
    "voxelmorph_masks": (VOXELMORPH, NO_PROTOTYPE, NO_CONTOUR),
}
OPTIONS: dict[str, tuple[str, ...]] = {  # what other published networks have; trained on request
    "correlation": (CORRELATION,),
    "segmentation": ("ablation/segmentation.json",),
    "inverse": ("ablation/inverse.json",),
    "isotropic": (ISOTROPIC,),
    "small": (SMALL,),
}
VARIANTS = TRAINED | OPTIONS


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        title: as printed.
        variant: the weights, a key of ``VARIANTS``.
        masks: source of the input masks for measuring.
        paper: Dice and SDlogJ of the paper (tables 2 and 3), if it has the row.
    """

    title: str
    variant: str
    masks: str | None = "cardiac"
    paper: tuple[float, float] | None = None


ROWS = (
    Row("neither prototype nor contour loss", "no_prototype_no_contour", paper=(0.830, 0.053)),
    Row("prototype loss", "no_contour", paper=(0.835, 0.045)),
    Row("contour loss", "no_prototype"),
    Row("both", "full", paper=(0.846, 0.049)),
    Row("both, no masks as input", "full", None),
    Row("both, label maps as input (upper bound)", "full", "label"),
    Row("both, correlation volume", "correlation"),
    Row("both, segmentation head", "segmentation"),
    Row("both, inverse consistency", "inverse"),
    Row("both, pyramid of all axes", "isotropic"),
    Row("both, half the channels", "small"),
    Row("VoxelMorph", "voxelmorph", None, (0.746, 0.041)),
    Row("VoxelMorph, Dice loss", "voxelmorph_masks", None, (0.754, 0.077)),
)
PAPER_INITIAL = 0.561
TITLES = {
    "method": "losses and input",
    "dice": "Dice",
    "gain": "more than both (± standard error)",
    "hd95_mm": "HD95 (mm)",
    "sdlogj": "SDlogJ (det + 3)",
    "sdlogj_plain": "SDlogJ (plain)",
    "folds_percent": "folds (%)",
    "paper_dice": "paper: Dice",
    "paper_sdlogj": "paper: SDlogJ",
}
SHARED = ("data_dir", "dataset_dir", "network_def", "structures", "spatial_dims", "strides", "attention_window",
          "window", "init", "max_size", "validation_list")  # fmt: skip
REFERENCE = ("full", "cardiac")


def epochs_done(folder: Path) -> int:
    """Epochs of a training so far; 0 without a checkpoint."""
    path = folder / "last.pt"
    if not path.exists():
        return 0
    engine = read_checkpoint(path)["engine"]
    return engine["iteration"] // engine["epoch_length"]


def complete(folder: Path, epochs: int) -> bool:
    """Whether a training is finished and its weights were written after the last epoch."""
    last, best = folder / "last.pt", folder / "best.pt"
    return epochs_done(folder) >= epochs and best.exists() and best.stat().st_mtime >= last.stat().st_mtime


def same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Stores the settings of a table beside it, and refuses others later.

    Raises:
        InputError: the folder holds trainings with other settings.
    """
    path = folder / "settings.json"
    text = json.dumps(settings, indent=2, sort_keys=True, default=str)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{folder} holds trainings with other settings ({path}); give another --output_dir.")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def measure(row: Row, folder: Path, dataset: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measures the pairs of a row with the weights of its variant.

    Args:
        row: of the table.
        folder: of all variants.
        dataset: overlay of the data set.
        options: of the training; those of the images and the network also apply here.
    """
    best = folder / row.variant / "best.pt"
    configs = ["inference.json", "evaluate.json", dataset]
    configs += [overlay for overlay in VARIANTS[row.variant] if overlay in NETWORKS]
    values = {key: value for key, value in options.items() if key.split("#")[0] in SHARED}
    values |= {"checkpoint": str(best), "masks": row.masks, "mask_cache": str(folder / "masks")}
    weights = [best, *([MODELS / f"{row.masks}_net.pt"] if row.masks in NETS else [])]
    return measured(folder / row.variant / f"masks_{row.masks or 'none'}", configs, values, weights)


def table_lines(measurements: Mapping[Row, Pairs]) -> list[dict[str, Any]]:
    """The lines of the table, initial values first, in the form of :mod:`scripts.benchmarks.tables`."""
    reference = next((v for k, v in measurements.items() if (k.variant, k.masks) == REFERENCE), None)
    lines: list[dict[str, Any]] = []
    for row, pairs in measurements.items():
        if not lines:
            lines.append({"method": "before", "paper_dice": PAPER_INITIAL, **averages(pairs, INITIAL)})
        paper = dict(zip(("paper_dice", "paper_sdlogj"), row.paper or ()))
        more = {} if reference is None or pairs is reference else gain(pairs, reference, "dice/mean/final")
        lines.append({"method": row.title, **averages(pairs, FINAL), **more, **paper})
    return lines


def main(
    data_dir: str,
    output_dir: str = "runs/ablation",
    epochs: int = 500,
    hours: float | None = None,
    variants: Sequence[str] | str | None = None,
    dataset: str = "datasets/acdc.json",
    **options: Any,
) -> None:
    """Trains the variants, measures them, prints the table and writes ``ablation.csv``.

    Args:
        data_dir: folder with the data set and its split.
        output_dir: has a folder for each variant, with its checkpoints, logs and measurements.
        epochs: of every variant; a variant with fewer is not in the table.
        hours: time after which it stops cleanly; the next call resumes.
        variants: only these, of ``VARIANTS``; all of ``TRAINED`` if not given.
        dataset: overlay of the data set in ``configs/``.
        options: any key of configs/train.json, for every variant; and ``validation_list``, other pairs to measure.

    Raises:
        InputError: an unknown variant or option, settings that differ from those of the folder, or a failed run.
    """
    plain_errors()
    write, folder = sys.stdout.write, Path(output_dir).absolute()
    chosen = [variants] if isinstance(variants, str) else list(variants or TRAINED)
    unknown = [name for name in chosen if name not in VARIANTS]
    if unknown:
        raise InputError(f"Unknown variant {unknown[0]!r}; choose one of {', '.join(VARIANTS)}.")
    data = {"data_dir": str(Path(data_dir).absolute()), "dataset_dir": str(folder / "pairs")}
    same_settings(folder, {"epochs": epochs, "dataset": dataset, **options})
    deadline = time.monotonic() + hours * 3600 if hours is not None else float("inf")
    for name in chosen:
        left = deadline - time.monotonic()
        if not complete(folder / name, epochs) and left >= 1:
            write(f"training {name}, {epochs_done(folder / name)} of {epochs} epochs so far\n")
            sys.stdout.flush()
            # One validation, at the end: no variant is chosen among several of its states.
            budget = {"max_epochs": epochs, "val_interval": epochs + 1, "patience": epochs + 1}
            budget |= {} if hours is None else {"time_budget_s": int(left)}
            values = {**options, **data, **budget, "output_dir": str(folder / name)}
            run_configs("training", folder / name, ["train.json", dataset, *VARIANTS[name]], values)
    measurements = {}
    for row in ROWS:
        if row.variant in chosen and complete(folder / row.variant, epochs):
            measurements[row] = measure(row, folder, dataset, {**options, **data})
        elif row.variant in chosen:
            write(f"{row.title}: {epochs_done(folder / row.variant)} of {epochs} epochs, not in the table yet\n")
    lines = table_lines(measurements)
    write_csv(folder / "ablation.csv", lines)
    write(f"\n{epochs} epochs each, {hardware()}\n\n{markdown(lines, TITLES)}")


if __name__ == "__main__":
    fire.Fire(main)
