# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Convolutional encoder of section 3.2: four levels, each half the resolution and twice the channels of the last."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBlock(nn.Sequential):
    """Convolution of width 3, LeakyReLU of slope 0.2, instance norm."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int) -> None:
        super().__init__(
            Conv[Conv.CONV, spatial_dims](inputs, outputs, 3, padding=1),
            nn.LeakyReLU(0.2),
            Norm[Norm.INSTANCE, spatial_dims](outputs, affine=True),
        )


class Encoder(nn.Module):
    """Features at several scales.

    Args:
        spatial_dims: 2 or 3.
        inputs: channels of the image.
        channels: channels of each level, fine to coarse.
        strides: of the average pooling between two levels, a step for each axis; one fewer than ``channels``.

    Reference:
        equation 1 of Xu et al., IPMI 2025.
    """

    def __init__(
        self, spatial_dims: int, inputs: int, channels: Sequence[int], strides: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        widths = [inputs, *channels]
        self.levels = nn.ModuleList(
            nn.Sequential(ConvBlock(spatial_dims, a, b), ConvBlock(spatial_dims, b, b)) for a, b in pairwise(widths)
        )
        self.strides = [list(s) for s in strides]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features (B, channels[l], ...) of each level, fine to coarse.

        The image is (B, C, H, W[, D]), with sizes divisible by the product of the strides.
        """
        features: list[Tensor] = []
        for number, level in enumerate(self.levels):
            if number > 0:
                stride = self.strides[number - 1]
                image = F.avg_pool2d(image, stride) if image.ndim == 4 else F.avg_pool3d(image, stride)
            image = level(image)
            features.append(image)
        return features
