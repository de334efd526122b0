# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Diffusion regularisation in physical units, so that a weight means the same on any grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..spatial.warp import check_ddf
from .pair import LossPair


def diffusion(ddf: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
    """Mean over voxels of the squared gradient of the displacement, ``sum_ij (d u_i / d x_j)^2``.

    Displacement and position are in mm, so the value does not depend on the voxel size (MONAI's ``DiffusionLoss``
    works in voxels).

    Args:
        ddf: (B, n, *shape) voxels.
        spacing: mm along each axis; 1 if None.

    Returns:
        scalar; for a linear map x -> x + G x it is the squared Frobenius norm of G.

    Reference:
        equation 9 of Xu et al., IPMI 2025; the L2 norm of the DDF gradient in equation 2 of Huang et al. 2024.
    """
    check_ddf(ddf)
    n = ddf.shape[1]
    spacing = [1.0] * n if spacing is None else spacing
    if len(spacing) != n:
        raise ValueError(f"A {n}-D field needs {n} spacings, got {list(spacing)}.")
    scale = ddf.new_tensor(list(spacing)).view(1, n, *[1] * n)
    total = ddf.new_zeros(())
    for axis in range(n):
        if ddf.shape[2 + axis] > 1:
            slope = (ddf * scale).diff(dim=2 + axis) / spacing[axis]
            total = total + (slope**2).sum(dim=1).mean()
    return total


@dataclass
class Diffusion:
    """Squared gradient of the field; a :class:`scripts.losses.pair.Term` (equation 9)."""

    weight: float = 0.45

    def __call__(self, ddf: Tensor, pair: LossPair) -> Tensor:
        return diffusion(ddf, pair.spacing)
