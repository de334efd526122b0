# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Overlap of labels moved by a predicted field, for the engines that validate on the working grid."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..spatial.warp import warp
from .overlap import dice


def moved_dice(output: Mapping, structures: int, moved: bool = True) -> float:
    """Mean Dice over the structures and the batch.

    Args:
        output: of an evaluator, "pred" the DDF (B, n, *shape) in voxels, "label" (B, 2, *shape) moving and fixed.
        structures: labels 1 to this number are measured; those in neither image are left out.
        moved: False measures before the registration.
    """
    ddf, labels = output["pred"], torch.as_tensor(output["label"]).float()
    moving = warp(labels[:, 0:1], ddf.float(), mode="nearest") if moved else labels[:, 0:1]
    scores = []
    for a, b in zip(moving[:, 0].round(), labels[:, 1].round()):
        scores += [v for v in dice(a, b, range(1, structures + 1)).values() if not math.isnan(v)]
    return sum(scores) / len(scores) if scores else float("nan")
