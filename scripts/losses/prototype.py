# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Prototype learning: masked average pooling, contrast and alignment (equations 3 to 6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def structure_masks(labels: Tensor, structures: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """One mask a structure, averaged down to a feature grid so that small structures keep a weight.

    Args:
        labels: (*shape) labels; 1 to ``structures`` count.
        structures: number K.
        shape: grid of the result; that of the labels if None.

    Returns:
        (K, *shape) float in [0, 1].
    """
    values = torch.arange(1, structures + 1, device=labels.device).view(-1, *[1] * labels.ndim)
    masks = (labels[None].round() == values).float()
    return masks if shape is None or shape == tuple(labels.shape) else F.interpolate(masks[None], shape, mode="area")[0]


def prototypes(features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Masked average pooling of each structure.

    Args:
        features: (C, *shape).
        masks: (K, *shape) in [0, 1].

    Returns:
        (K, C) prototypes, and (K,) bool, False where the mask is empty and the prototype means nothing.

    Reference:
        equation 3 of Xu et al., IPMI 2025.
    """
    flat = masks.flatten(1)
    weight = flat.sum(dim=1)
    return flat @ features.flatten(1).T / weight.clamp_min(1e-6)[:, None], weight > 1e-6


def prototype_contrast(features: Tensor, masks: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of each voxel's cosine similarities to the prototypes, the structure it lies in being the answer.

    It falls as the features of a structure gather round their prototype and away from the others.

    Args:
        features: (C, *shape).
        masks: (K, *shape) in [0, 1]; a voxel counts as much as it is covered.
        temperature: of the softmax; 1 is the paper's.

    Returns:
        scalar, mean over the covered voxels; 0 with fewer than two structures.

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


def prototype_alignment(moving: tuple[Tensor, Tensor], fixed: tuple[Tensor, Tensor]) -> Tensor:
    """Sum over structures in both images of 1 - cosine similarity of their prototypes.

    Args:
        moving: what :func:`prototypes` gives of the moving image.
        fixed: likewise of the fixed image.

    Reference:
        equation 5 of Xu et al., IPMI 2025.
    """
    both = moving[1] & fixed[1]
    return (1 - F.cosine_similarity(moving[0][both], fixed[0][both], dim=1)).sum()


def prototype_loss(
    moving: Tensor, fixed: Tensor, moving_masks: Tensor, fixed_masks: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Contrast, averaged over the two images, and alignment; their sum is L_prototype, equation 6.

    Args:
        moving: (C, *shape) features.
        fixed: (C, *shape) features.
        moving_masks: (K, *shape) in [0, 1].
        fixed_masks: (K, *shape) in [0, 1].
        temperature: see :func:`prototype_contrast`.
    """
    pairs = (moving, moving_masks), (fixed, fixed_masks)
    contrast = sum(prototype_contrast(f, m, temperature) for f, m in pairs) / 2
    return contrast, prototype_alignment(*(prototypes(f, m) for f, m in pairs))
