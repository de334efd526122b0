# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Measures of a Segment Anything model on a labelled slice: masks of points, and coverage of everything mode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from ...roi.region_filter import RegionFilter
from ...sam.everything import EverythingMode
from ...sam.prompts import EncodedSlices, Prompt
from ...sam.suppress import pairwise_overlap
from .sam_slices import UNIONS, LabelledSlice


@dataclass(frozen=True)
class PointAnswer:
    """The three masks of one point.

    Attributes:
        value: label of the structure that the point lies in.
        best: IoU of the best of the three with that structure.
        predicted: quality that the model gives to each.
        true: largest IoU of each with any structure or union that contains the point.
    """

    value: int
    best: float
    predicted: tuple[float, ...]
    true: tuple[float, ...]


def iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (K, L) of masks (K, H, W) and (L, H, W)."""
    return pairwise_overlap(a, b, "iou")


def point_answers(sam: Sam, one: LabelledSlice, points: int, rng: np.random.Generator) -> list[PointAnswer]:
    """Prompts every structure of a slice with random points inside it.

    Args:
        sam: the model.
        one: the slice.
        points: points per structure.
        rng: source of the points.
    """
    encoded = EncodedSlices(sam, one.picture[None])
    groups = [(v,) for v in one.structures()] + list(UNIONS[one.kind])
    truths = torch.stack([torch.isin(one.label, torch.tensor(group)) for group in groups])
    answers = []
    for value, mask in one.structures().items():
        inside = mask.nonzero()
        for row, column in inside[torch.from_numpy(rng.integers(0, len(inside), points))].tolist():
            place = torch.tensor([[column + 0.5, row + 0.5]])
            found = encoded.masks(0, Prompt(place, torch.ones(1)))
            masks = found.masks().cpu()
            true = iou(masks, truths).masked_fill(~truths[:, row, column], 0).amax(dim=1)
            best = float(iou(masks, mask[None]).max())
            answers.append(PointAnswer(value, best, tuple(found.predicted_iou.tolist()), tuple(true.tolist())))
    return answers


def coverage(
    sam: Sam, one: LabelledSlice, everything: EverythingMode, keep: RegionFilter, least: float
) -> dict[int, tuple[float, float]]:
    """Best IoU with each structure of at least this share of the slice: of all masks, and of those the filter keeps."""
    structures = one.structures(least)
    if not structures:
        return {}
    found = everything(sam, one.picture[None])[0]
    targets = torch.stack(list(structures.values()))
    best = [
        iou(masks.masks().cpu(), targets).amax(dim=0).tolist() if len(masks) else [0.0] * len(targets)
        for masks in (found, keep(found, one.pixel_mm2))
    ]
    return dict(zip(structures, zip(*best)))


def correlation(answers: list[PointAnswer]) -> float:
    """Pearson's r of predicted and true IoU over all masks of all points; nan where either is the same everywhere."""
    predicted, true = (np.array([v for a in answers for v in getattr(a, key)]) for key in ("predicted", "true"))
    if not all(values.size and np.ptp(values) for values in (predicted, true)):
        return float("nan")
    return float(np.corrcoef(predicted, true)[0, 1])
