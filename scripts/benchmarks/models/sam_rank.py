# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Do features match? The rank of a region's true partner among all regions of the other image, by prototype alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from ...correspondence.matching import cosine_similarity
from ...roi.regions import slice_prototypes
from ...sam.prompts import EncodedSlices, mask_logits
from ...training.sam.slices import region_layers
from .sam_slices import MIN_SHARE, LabelledSlice

MAX_SHARE = 0.175  # of the slice, as in the filter of regions


@dataclass(frozen=True, eq=False)
class Sought:
    """One structure that has to be found in another slice."""

    value: int
    moving: LabelledSlice
    fixed: LabelledSlice


@dataclass(frozen=True)
class Rank:
    """How a search ended.

    Attributes:
        value: label of the structure.
        rank: 1 if nothing is more similar than the true partner.
        candidates: regions of the other slice.
        partner: cosine similarity with the true partner.
        rival: highest cosine similarity with any other region.
    """

    value: int
    rank: int
    candidates: int
    partner: float
    rival: float


def same_slice(moving: list[LabelledSlice], fixed: list[LabelledSlice]) -> list[Sought]:
    """Structures on slices of the same number, e.g. of two phases of one heart."""
    found = []
    for a, b in zip(moving, fixed):
        found += [Sought(v, a, b) for v in a.structures() if v in b.structures()]
    return found


def largest_slices(images: list[list[LabelledSlice]]) -> list[Sought]:
    """Structures of different subjects, each on the slice where it is largest; every ordered pair."""
    widest = []
    for slices in images:
        sizes = [(int(mask.sum()), k, v) for k, one in enumerate(slices) for v, mask in one.structures().items()]
        widest.append({v: slices[k] for _, k, v in sorted(sizes)})
    pairs = itertools.permutations(widest, 2)
    return [Sought(v, a[v], b[v]) for a, b in pairs for v in a if v in b]


def candidate_masks(one: LabelledSlice) -> tuple[list[int], Tensor]:
    """Label values and masks (K, H, W) of the regions of a slice: its structures, and what lies beside them (value 0).

    The others come from graph segmentation, not from the model, so that all models are asked the same question.
    """
    structures = one.structures()
    grey = one.picture.mean(dim=0).round().to(torch.uint8).numpy()
    others = []
    for layer in torch.from_numpy(region_layers(grey)).long():
        size = torch.bincount(layer.flatten())
        free = torch.bincount(layer[one.label == 0], minlength=len(size))
        share = size / layer.numel()
        good = (share >= MIN_SHARE) & (share <= MAX_SHARE) & (2 * free > size)
        others += [layer == v for v in good.nonzero()[:, 0].tolist()]
    return [*structures, *[0] * len(others)], torch.stack([*structures.values(), *others])


def prototypes(sam: Sam, one: LabelledSlice, masks: Tensor) -> Tensor:
    """Prototypes (K, C) of masks (K, H, W) of a slice."""
    empty = EncodedSlices(sam, one.picture[None]).empty(0)
    logits = torch.stack([mask_logits(m.to(empty.embedding.device), empty) for m in masks])
    ones = torch.ones(len(masks), device=logits.device)
    vectors, _ = slice_prototypes(empty.with_masks(logits, ones, ones, torch.zeros(2)))
    return vectors.cpu()


class Ranking:
    """Looks up structures with one model, describing every slice once.

    Args:
        sam: the model.
    """

    def __init__(self, sam: Sam) -> None:
        self.sam = sam
        self._known: dict[LabelledSlice, tuple[list[int], Tensor]] = {}

    def __call__(self, sought: Sought) -> Rank:
        """The rank of one structure."""
        here, vectors = self._described(sought.moving)
        there, others = self._described(sought.fixed)
        similarity = cosine_similarity(vectors[here.index(sought.value)][None], others)[0]
        partner = there.index(sought.value)
        rivals = torch.cat([similarity[:partner], similarity[partner + 1 :]])
        best = float(rivals.max()) if len(rivals) else 0.0
        rank = 1 + int((rivals >= similarity[partner]).sum())
        return Rank(sought.value, rank, len(there), float(similarity[partner]), best)

    def _described(self, one: LabelledSlice) -> tuple[list[int], Tensor]:
        if one not in self._known:
            values, masks = candidate_masks(one)
            self._known[one] = values, prototypes(self.sam, one, masks)
        return self._known[one]


def mean_reciprocal(ranks: Iterable[Rank]) -> float:
    """Mean of 1 / rank."""
    return float(np.mean([1 / r.rank for r in ranks]))


def chance(ranks: Iterable[Rank]) -> float:
    """What :func:`mean_reciprocal` would be for random similarities."""
    return float(np.mean([np.mean(1 / np.arange(1, r.candidates + 1)) for r in ranks]))
