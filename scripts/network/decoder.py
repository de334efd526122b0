# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""One level of the cross fusion decoder: warped moving and fixed features in, the residual field of this level out."""

# ruff: noqa: RUF005 (torch.jit.script compiles no star inside a list)

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from .attention import CrossAttentionBlock, FusionAttentionBlock
from .correlation import CorrelationVolume


class FieldLevel(nn.Module):
    """Cross attention for images and for masks, fusion of both, and a head that gives the residual field.

    The head also gets the four maps behind the fused features: attention averages values, and without the maps small
    residuals are hard to estimate.

    Args:
        spatial_dims: 2 or 3.
        dim: channels of this level.
        heads: number of attention heads.
        window: voxels along each axis.
        mlp_ratio: hidden channels of an MLP divided by its channels.
        correlation: radius in voxels of a correlation volume beside the fused features; 0 for none.
    """

    def __init__(
        self, spatial_dims: int, dim: int, heads: int, window: Sequence[int], mlp_ratio: float, correlation: int = 0
    ) -> None:
        super().__init__()
        self.image = CrossAttentionBlock(dim, heads, window, mlp_ratio)
        self.mask = CrossAttentionBlock(dim, heads, window, mlp_ratio)
        self.fusion = FusionAttentionBlock(dim, heads, window, mlp_ratio)
        conv = Conv[Conv.CONV, spatial_dims]
        self.mix = nn.Sequential(conv(5 * dim, dim, 3, padding=1), nn.LeakyReLU(0.2))
        self.correlation = CorrelationVolume(spatial_dims, dim, correlation) if correlation > 0 else None
        self.head = conv(dim, spatial_dims, 3, padding=1)
        # Training starts from the identity.
        nn.init.normal_(self.head.weight, std=1e-4)
        nn.init.zeros_(self.head.bias)

    def forward(self, moving: Tensor, fixed: Tensor, moving_mask: Tensor, fixed_mask: Tensor) -> Tensor:
        """Residual field (B, n, *shape) in voxels of this level from four feature maps (B, C, *shape)."""
        # As views the maps would be copied by every linear layer and every norm.
        last = [x.movedim(1, -1).contiguous() for x in (moving, fixed, moving_mask, fixed_mask)]
        fused = self.fusion(self.image(last[0], last[1]), self.mask(last[2], last[3]))
        # With channels last in memory the convolution is twice as fast on a CPU.
        mixed = self.mix[0](torch.cat([fused] + last, dim=-1).movedim(-1, 1))
        if self.correlation is not None:
            mixed = mixed + self.correlation(moving, fixed)
        return self.head(self.mix[1](mixed)).contiguous()
