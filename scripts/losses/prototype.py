# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Prototype learning: masked average pooling, contrast and alignment (equations 3 to 6)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..common.errors import InputError
from .pair import LossPair, structure_masks


def prototypes(features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Masked average pooling of features (C, *shape) under masks (K, *shape) in [0, 1].

    Returns:
        (K, C) prototypes, and (K,) bool, False if the mask is empty and the prototype has no meaning.

    Reference:
        equation 3 of Xu et al., IPMI 2025.
    """
    flat = masks.flatten(1)
    weight = flat.sum(dim=1)
    return flat @ features.flatten(1).T / weight.clamp_min(1e-6)[:, None], weight > 1e-6


def prototype_contrast(features: Tensor, masks: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of each voxel's cosine similarities to the prototypes; the target is the voxel's structure.

    Args:
        features: (C, *shape).
        masks: (K, *shape) in [0, 1]; they weight the voxels.
        temperature: of the softmax; 1 in the paper.

    Returns:
        scalar, weighted mean over the voxels; 0 with fewer than two structures.

    Reference:
        equation 4 of Xu et al., IPMI 2025.
    """
    centres, known = prototypes(features, masks)
    if known.sum() < 2:
        return features.sum() * 0
    masks = masks[known].flatten(1)
    similarity = F.normalize(centres[known], dim=1) @ F.normalize(features.flatten(1), dim=0)
    log_probability = (similarity / temperature).log_softmax(dim=0)
    return -(log_probability * masks).sum() / masks.sum()


def prototype_alignment(moving: Tensor, fixed: Tensor, moving_masks: Tensor, fixed_masks: Tensor) -> Tensor:
    """Sum of 1 - cosine similarity of the two prototypes, over the structures in both images.

    Features are (C, *shape), masks (K, *shape) in [0, 1].

    Reference:
        equation 5 of Xu et al., IPMI 2025.
    """
    (a, in_a), (b, in_b) = prototypes(moving, moving_masks), prototypes(fixed, fixed_masks)
    both = in_a & in_b
    return (1 - F.cosine_similarity(a[both], b[both], dim=1)).sum()


@dataclass
class _PrototypeTerm:
    """A term on the features of both images.

    Attributes:
        weight: in the loss.
        level: of the features; 0 is the finest.
    """

    weight: float = 1.0
    level: int = 1

    def inputs(self, pair: LossPair) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Moving and fixed features (C, *level), moving and fixed masks (K, *level).

        Raises:
            InputError: the network has no features of this level.
        """
        if self.level >= len(pair.features):
            raise InputError(
                f"The network has {len(pair.features)} feature levels, so the prototype terms cannot use level "
                f"{self.level}; give a lower level, or disable the terms contrast and alignment."
            )
        moving, fixed = (f.float() for f in pair.features[self.level])
        shape = tuple(moving.shape[1:])
        masks = [structure_masks(x, pair.structures, shape) for x in pair.feature_labels]
        return moving, fixed, *masks


@dataclass
class PrototypeContrast(_PrototypeTerm):
    """Contrast, mean of the two images; a :class:`scripts.losses.pair.Term`."""

    temperature: float = 1.0

    def __call__(self, ddf: Tensor, pair: LossPair) -> Tensor:
        moving, fixed, moving_masks, fixed_masks = self.inputs(pair)
        sides = (moving, moving_masks), (fixed, fixed_masks)
        return sum(prototype_contrast(f, m, self.temperature) for f, m in sides) / 2


class PrototypeAlignment(_PrototypeTerm):
    """Alignment of the prototypes of both images; a :class:`scripts.losses.pair.Term`."""

    def __call__(self, ddf: Tensor, pair: LossPair) -> Tensor:
        return prototype_alignment(*self.inputs(pair))
