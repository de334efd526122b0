# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Correlation volume: how similar each fixed voxel is to the moving voxels around it."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F


def local_correlation(moving: Tensor, fixed: Tensor, radius: int) -> Tensor:
    """Cosine similarity of fixed features to the moving features at every displacement within a cube.

    Args:
        moving: (B, C, *shape).
        fixed: the same shape.
        radius: of the cube in voxels.

    Returns:
        (B, (2 radius + 1)^n, *shape) in [-1, 1]; the last axis of the displacement varies fastest, from -radius to
        radius. Moving voxels outside the image have the similarity 0.
    """
    n, side = moving.ndim - 2, 2 * radius + 1
    padded, fixed = F.pad(F.normalize(moving, dim=1), [radius] * (2 * n)), F.normalize(fixed, dim=1)
    volume: list[Tensor] = []
    for number in range(int(side**n)):  # a script takes the power for a float
        part, rest = padded, number
        for axis in range(n + 1, 1, -1):
            part = part.narrow(axis, rest % side, fixed.shape[axis])
            rest = rest // side
        volume.append((part * fixed).sum(dim=1))
    return torch.stack(volume, dim=1)


class CorrelationVolume(nn.Module):
    """The correlation volume, mixed into channels by a convolution of width 1.

    The convolution starts at zero, so a network with shipped weights first predicts what it does without the volume.

    Args:
        spatial_dims: 2 or 3.
        dim: channels of the result.
        radius: largest displacement along an axis, in voxels of the level.

    Reference:
        cost volume of PWC-Net, Sun et al., CVPR 2018.
    """

    def __init__(self, spatial_dims: int, dim: int, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.mix = Conv[Conv.CONV, spatial_dims]((2 * radius + 1) ** spatial_dims, dim, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """(B, dim, *shape) from warped moving and fixed features (B, C, *shape)."""
        return self.mix(local_correlation(moving, fixed, self.radius))
