# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The input of a loss term: one pair of images with everything about it that the field does not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..spatial.warp import warp


def structure_masks(labels: Tensor, structures: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """Masks (K, *shape) in [0, 1] of labels 1 to K, averaged down to ``shape`` so that small ones keep a weight."""
    values = torch.arange(1, structures + 1, device=labels.device).view(-1, *[1] * labels.ndim)
    masks = (labels[None].round() == values).float()
    return masks if shape is None or shape == tuple(labels.shape) else F.interpolate(masks[None], shape, mode="area")[0]


@dataclass(eq=False)
class LossPair:
    """One pair as the loss terms see it.

    Attributes:
        images: (2, *shape) moving and fixed image.
        labels: (2, *shape) moving and fixed labels, 1 to ``structures``; 0 is the background.
        structures: number of structures K.
        spacing: mm along each axis.
        features: image features of the two images, a tuple (moving, fixed) of (C, *level) for each level, fine to
            coarse; empty if the network computes none.
        feature_labels: (2, *padded) labels over the extent of the features.
        name: of the pair, for messages.
        valid: (2, *shape) weight of the voxels of the moving and the fixed image, 0 where they are excluded; None
            excludes nothing.
        logits: (K + 1, *padded) of the background and each structure of the fixed image; None without a segmentation
            head.
        inverse: (1, n, *shape) voxels, the field that moves the fixed image; None if it was not predicted.
        outlines: of the structures, filled by :func:`scripts.losses.contour.outlines`.
    """

    images: Tensor
    labels: Tensor
    structures: int
    spacing: Sequence[float]
    features: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    feature_labels: Tensor | None = None
    name: str = "the pair"
    valid: Tensor | None = None
    logits: Tensor | None = None
    inverse: Tensor | None = None
    outlines: dict | None = None

    @cached_property
    def masks(self) -> tuple[Tensor, Tensor]:
        """Moving and fixed masks, (K, *shape) each; structures that are missing in either image are left out."""
        moving, fixed = (structure_masks(x, self.structures) for x in self.labels)
        both = moving.flatten(1).any(dim=1) & fixed.flatten(1).any(dim=1)
        return moving[both], fixed[both]

    def look(self, ddf: Tensor) -> Tensor | None:
        """Weight (1, 1, *shape) of the voxels that may be compared under a field; None for all."""
        if self.valid is None:
            return None
        return self.valid[None, 1:] * warp(self.valid[None, :1], ddf.detach())


class Term(Protocol):
    """A term of the loss. To add one: a class with a ``weight``, and an entry in the config's ``loss_terms``."""

    weight: float

    def __call__(self, ddf: Tensor, pair: LossPair) -> Tensor:
        """The unweighted scalar value for a field (1, n, *shape) in voxels; its gradient flows through the field."""
        ...
