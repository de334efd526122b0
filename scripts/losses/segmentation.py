# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Dice loss of a segmentation of the fixed image from its features, which makes the features anatomical."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..common.errors import InputError
from .overlap import soft_dice_loss
from .pair import LossPair, structure_masks


@dataclass
class Segmentation:
    """Dice loss of the predicted structures of the fixed image; a :class:`scripts.losses.pair.Term`.

    Mean over the structures of the fixed image, 0 if there are none. The field has no influence.

    Attributes:
        weight: in the loss; the training adds the head that predicts where it is not 0.
    """

    weight: float = 0.0

    def __call__(self, ddf: Tensor, pair: LossPair) -> Tensor:
        if pair.logits is None:
            raise InputError("The segmentation term needs a head in the training; give --segmentation_weight.")
        masks = structure_masks(pair.feature_labels[1], pair.structures)
        present = masks.flatten(1).any(dim=1)
        if not present.any():
            return pair.logits.sum() * 0
        return soft_dice_loss(pair.logits.float().softmax(dim=0)[1:][present], masks[present]).mean()
