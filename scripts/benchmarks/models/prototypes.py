# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Whose features find the partner of a region: those of LiteMedSAM, of its companion the compact SAM, or both joined?

``python -m scripts.benchmarks.models.prototypes --data_dir DATA``
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import fire
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...correspondence.matching import cosine_similarity, position_prior
from ...roi.regions import slice_moments, slice_prototypes
from ...sam.boxes import PROTOTYPES, description
from ...sam.build import build_sam
from ...sam.prompts import EncodedSlices, mask_logits
from ...workflow.outcome import plain_errors
from ..common import hardware
from .sam_rank import Sought, candidate_masks, largest_slices, same_slice
from .sam_slices import LabelledSlice, abdomen_slices, evenly, heart_slices

SIGMA = 0.05  # of the position prior, share of the slice's diagonal


class Regions(NamedTuple):
    """All regions of a slice: label values, centroids (K, 2) as shares of the diagonal, prototypes by kind."""

    values: list[int]
    places: Tensor
    vectors: dict[str, Tensor]


class Outcome(NamedTuple):
    """Reciprocal rank of the partner, whether it is first, and whether the two choose each other."""

    reciprocal: float
    first: bool
    mutual: bool


def describe(encoded: EncodedSlices, one: LabelledSlice) -> Regions:
    """The structures of a slice and the regions beside them, with the prototypes of every kind."""
    values, masks = candidate_masks(one)
    own, other = encoded.empty(0), encoded.features(0)
    ones = torch.ones(len(masks), device=own.embedding.device)
    logits = torch.stack([mask_logits(m.to(ones.device), own) for m in masks])
    drawn = own.with_masks(logits, ones, ones, torch.zeros(2))
    vectors = {
        kind: slice_prototypes(replace(drawn, **description(own, other, kind)))[0].float().cpu() for kind in PROTOTYPES
    }
    return Regions(values, slice_moments(drawn)[:, 1:] / float(np.hypot(*own.size)), vectors)


def outcome(score: Tensor, row: int, column: int) -> Outcome:
    """How the search for a region (a row of the scores) ends whose partner is a column; ties are lost."""
    rank = int((score[row] >= score[row, column]).sum())
    back = int((score[:, column] >= score[row, column]).sum())
    return Outcome(1 / rank, rank == 1, rank == 1 == back)


def search(known: dict[LabelledSlice, Regions], sought: Iterable[Sought]) -> dict[tuple[str, bool], list[Outcome]]:
    """Outcomes by kind of prototype and with or without the position prior."""
    found: dict[tuple[str, bool], list[Outcome]] = {}
    for one in sought:
        here, there = known[one.moving], known[one.fixed]
        row, column = here.values.index(one.value), there.values.index(one.value)
        near = position_prior(here.places, there.places, SIGMA)
        for kind in PROTOTYPES:
            score = cosine_similarity(here.vectors[kind], there.vectors[kind])
            for prior in (False, True):
                found.setdefault((kind, prior), []).append(outcome(score * near if prior else score, row, column))
    return found


def main(data_dir: str, subset: str = "inner_validation", searches: int = 60, subjects: int = 4) -> None:
    """Prints the table.

    Args:
        data_dir: folder with ``acdc/``, ``abdomen_ct/`` and ``splits/``.
        subset: of the heart patients; abdomens are the first ones of the training list unless it is "validation".
        searches: regions to search in each data set.
        subjects: number of abdomens, each of which is compared with all others.
    """
    sam = build_sam("lite_medsam", precision="auto")
    hearts = list(heart_slices(data_dir, subset))
    names = "validation" if subset == "validation" else "training"
    abdomens = [slices for _, slices in zip(range(subjects), abdomen_slices(data_dir, names))]
    beats = list(chain.from_iterable(map(same_slice, hearts[::2], hearts[1::2])))
    kinds = {"hearts, same slice, ED to ES": beats, "abdomens, other subject": largest_slices(abdomens)}
    write = sys.stdout.write
    write("| partner among all regions of the other slice | prototypes | mean reciprocal rank | first | mutual |")
    write(" with a position prior: rank | first | mutual |\n|---|---|---|---|---|---|---|---|\n")
    for title, every in kinds.items():
        sought = evenly(every, searches)
        slices = dict.fromkeys(s for one in sought for s in (one.moving, one.fixed))
        known = {s: describe(EncodedSlices(sam, s.picture[None]), s) for s in tqdm(slices, desc=title, unit="slice")}
        found = search(known, sought)
        for kind in PROTOTYPES:
            means = [np.mean(found[kind, prior], axis=0) for prior in (False, True)]
            cells = " | ".join(f"{m[0]:.3f} | {m[1]:.1%} | {m[2]:.1%}" for m in means)
            write(f"| {title}, {len(sought)} searches | {kind} | {cells} |\n")
        sys.stdout.flush()
    write(f"{hardware()}\n")


if __name__ == "__main__":
    plain_errors()
    fire.Fire(main)
