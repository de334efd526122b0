# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Dice of labels moved by a predicted field, for validation during training on the working grid."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..spatial.warp import warp
from .assembly import mean_known
from .overlap import dice


def moved_dice(output: Mapping, structures: int, moved: bool = True) -> float:
    """Mean Dice over the structures and the batch.

    Args:
        output: of an evaluator: "pred" is the DDF (B, n, *shape) in voxels, "label" (B, 2, *shape) moving and fixed.
        structures: labels 1 to this number are measured, except those that neither image contains.
        moved: False measures before the registration.
    """
    ddf, labels = output["pred"], torch.as_tensor(output["label"]).float()
    moving = warp(labels[:, 0:1], ddf.float(), mode="nearest") if moved else labels[:, 0:1]
    pairs = zip(moving[:, 0].round(), labels[:, 1].round())
    return mean_known(score for a, b in pairs for score in dice(a, b, range(1, structures + 1)).values())
