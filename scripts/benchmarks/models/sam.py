# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Quality of Segment Anything models on subjects and kinds of pictures that they have not seen, side by side.

``python -m scripts.benchmarks.models.sam --data_dir DATA --weights models/compact_sam.pt,new.pt``
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import fire
import numpy as np
from tqdm import tqdm

from ...common.errors import InputError
from ...sam.build import MODELS
from ...workflow.outcome import plain_errors
from ..common import hardware, mean_sd
from .sam_measures import correlation, coverage, point_answers
from .sam_models import Model, load_models
from .sam_rank import Ranking, Sought, chance, largest_slices, mean_reciprocal, same_slice
from .sam_slices import NAMES, LabelledSlice, abdomen_slices, evenly, heart_slices, phantom_slices, some
from .sam_unseen import region_count, unseen

# The target for random points is a mean over these.
AIMED = ("left ventricle", "myocardium", "right ventricle", "liver", "kidneys", "spleen", "aorta", "stomach")
COVERED_IOU = 0.7
LEAST_SHARE = 0.005  # of the slice: structures that everything mode should cover


def write(text: str) -> None:
    """Writes to the terminal."""
    sys.stdout.write(text)


class Table:
    """One row per structure, one column per model; a cell summarises many values."""

    def __init__(self, title: str, models: Sequence[Model]) -> None:
        self.title, self.names = title, [m.name for m in models]
        self.rows: dict[str, dict[str, list[float]]] = {}

    def add(self, row: str, model: Model, value: float) -> None:
        self.rows.setdefault(row, {}).setdefault(model.name, []).append(value)

    def print(self, cell: Callable[[list[float]], str]) -> None:
        write(f"\n| {self.title} | n | {' | '.join(self.names)} |\n|---|---|{'---|' * len(self.names)}\n")
        for row, values in self.rows.items():
            write(f"| {row} | {len(values[self.names[0]])} | {' | '.join(cell(values[n]) for n in self.names)} |\n")

    def print_over(self, title: str, rows: Sequence[str], sum_up: Callable[[list[list[float]]], str]) -> None:
        """A last row over some of the rows; omitted if one of them is missing."""
        if set(rows) <= set(self.rows):
            cells = [sum_up([self.rows[row][name] for row in rows]) for name in self.names]
            write(f"| **{title}** | | {' | '.join(f'**{c}**' for c in cells)} |\n")


def mean_of_means(rows: list[list[float]]) -> str:
    """Mean over rows with equal weights."""
    return f"{np.mean([np.mean(row) for row in rows]):.3f}"


def share_covered(values: Iterable[float]) -> str:
    """Share of the structures that a mask covers."""
    return f"{np.mean(np.array(list(values)) >= COVERED_IOU):.1%}"


def measured_slices(data_dir: str | None, subset: str, slices: int, crop: int) -> list[LabelledSlice]:
    """Slices of both validation sets, or of phantoms if there is no data."""
    if data_dir is None:
        return some(phantom_slices(8), slices)
    return some(heart_slices(data_dir, subset, crop), slices) + some(abdomen_slices(data_dir, subset), slices)


def measure_points(models: Sequence[Model], slices: Sequence[LabelledSlice], points: int) -> None:
    """Best of three masks of random points inside structures, and predicted against true quality."""
    table = Table("random point inside, IoU of the best of three", models)
    answers = {m.name: [] for m in models}
    for number, one in enumerate(tqdm(slices, desc="points", unit="slice", leave=False)):
        for model in models:
            for answer in point_answers(model.sam, one, points, np.random.default_rng(number)):
                table.add(NAMES[one.kind][answer.value], model, answer.best)
                answers[model.name].append(answer)
    table.print(mean_sd)
    table.print_over("mean of the eight aimed at", AIMED, mean_of_means)
    table.print_over("mean of all", list(table.rows), mean_of_means)
    write("\n| predicted against true IoU, all masks of all points | " + " | ".join(answers) + " |\n")
    write("|---|" + "---|" * len(answers) + "\n| Pearson's r | ")
    write(" | ".join(f"{correlation(a):.3f}" for a in answers.values()) + " |\n")
    for key, title in (("predicted", "predicted IoU"), ("true", "true IoU")):
        cells = [mean_sd(chain.from_iterable(getattr(a, key) for a in found)) for found in answers.values()]
        write(f"| {title} | {' | '.join(cells)} |\n")


def measure_everything(models: Sequence[Model], slices: Sequence[LabelledSlice]) -> None:
    """Structures that a mask of everything mode covers."""
    tables = [
        Table(f"everything mode, structures over {LEAST_SHARE:.1%} of the slice covered at IoU {COVERED_IOU}", models),
        Table("the same, of the masks that the filter keeps", models),
    ]
    for one in tqdm(slices, desc="everything", unit="slice", leave=False):
        for model in models:
            found = coverage(model.sam, one, model.everything[one.kind], model.keep[one.kind], LEAST_SHARE)
            for value, both in found.items():
                for table, best in zip(tables, both):
                    table.add(NAMES[one.kind][value], model, best)
    for table in tables:
        table.print(share_covered)
        table.print_over("all structures", list(table.rows), lambda rows: share_covered(chain.from_iterable(rows)))


def measure_rank(models: Sequence[Model], data_dir: str | None, subset: str, searches: int) -> None:
    """Rank of the true partner of a region, by prototype alone."""
    if data_dir is None:
        images = list(phantom_slices(8))
        kinds = {"phantoms": list(chain.from_iterable(map(same_slice, images[::2], images[1::2])))}
    else:
        images = list(heart_slices(data_dir, subset))
        beats: list[Sought] = list(chain.from_iterable(map(same_slice, images[::2], images[1::2])))
        kinds = {"heart, same slice, ED to ES": beats}
        kinds["abdomen, other subject"] = largest_slices(list(abdomen_slices(data_dir, subset)))
    write("\n| partner among all regions of the other slice | " + " | ".join(m.name for m in models) + " |\n")
    write("|---|" + "---|" * len(models) + "\n")
    for kind, sought in kinds.items():
        found = []
        chosen = evenly(sought, searches)
        for model in models:
            ranking = Ranking(model.sam)
            found.append([ranking(s) for s in tqdm(chosen, desc=f"rank, {kind}", unit="region", leave=False)])
        regions = np.mean([r.candidates for r in found[0]])
        write(f"| **{kind}**: {len(chosen)} searches, {regions:.1f} regions |" + " |" * len(models) + "\n")
        rows = {
            f"mean reciprocal rank (at random {chance(found[0]):.3f})": lambda f: f"{mean_reciprocal(f):.3f}",
            "partner first": lambda f: f"{np.mean([r.rank == 1 for r in f]):.1%}",
            "cosine similarity with the partner": lambda f: mean_sd(r.partner for r in f),
            "highest with another region": lambda f: mean_sd(r.rival for r in f),
        }
        for title, cell in rows.items():
            write(f"| {title} | {' | '.join(cell(f) for f in found)} |\n")


def measure_unseen(models: Sequence[Model], data_dir: str | None, phantoms: int) -> None:
    """Regions after the filter in kinds of pictures that no training contained."""
    write("\n| regions per image after the filter: mean ± sd, least | images | ")
    write(" | ".join(m.name for m in models) + " |\n|---|---|" + "---|" * len(models) + "\n")
    for kind, pictures in unseen(data_dir, phantoms).items():
        cells = []
        for model in models:
            settings = model.everything["other"], model.keep["other"]
            counts = [region_count(model.sam, p, *settings) for p in tqdm(pictures.values(), desc=kind, leave=False)]
            cells.append(f"{np.mean(counts):.1f} ± {np.std(counts):.1f}, {min(counts)}")
        write(f"| {kind} | {len(pictures)} | {' | '.join(cells)} |\n")


def main(
    data_dir: str | None = None,
    weights: str | Sequence[str] = str(MODELS / "compact_sam.pt"),
    parts: str | Sequence[str] = "points,everything,rank,unseen",
    slices: int = 60,
    points: int = 2,
    searches: int = 150,
    phantoms: int = 6,
    crop: int = 0,
    subset: str = "validation",
    **options: Any,
) -> None:
    """Prints the tables.

    Args:
        data_dir: folder with ``acdc/``, ``abdomen_ct/``, ``retina/`` and ``splits/``; without it phantoms are measured.
        weights: files separated by commas, one column each; the last.pt of a training gives its averaged weights.
        parts: what to measure: points, everything, rank, unseen.
        slices: slices of each data set, spread evenly over the subjects; 0 takes all.
        points: random points per structure.
        searches: regions to search in each data set; 0 takes all.
        phantoms: images of each texture.
        crop: side in pixels of the central crop of heart images; 0 takes them whole.
        subset: "validation" or "training".
        options: any key of configs/samreg.json.

    Raises:
        InputError: an unknown part.
    """
    chosen = [p.strip() for p in parts.split(",")] if isinstance(parts, str) else list(parts)
    known = {
        "points": lambda: measure_points(models, pictures, points),
        "everything": lambda: measure_everything(models, pictures),
        "rank": lambda: measure_rank(models, data_dir, subset, searches),
        "unseen": lambda: measure_unseen(models, data_dir, phantoms),
    }
    for part in chosen:
        if part not in known:
            raise InputError(f"There is no part {part!r} to measure; choose from {', '.join(known)}.")
    models = load_models(weights, options)
    pictures = measured_slices(data_dir, subset, slices, crop) if {"points", "everything"} & set(chosen) else []
    write(f"{hardware()}\n")
    for part in chosen:
        known[part]()
        sys.stdout.flush()


if __name__ == "__main__":
    plain_errors()
    fire.Fire(main)
