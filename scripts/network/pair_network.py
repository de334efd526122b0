# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The contract of a registration network: one tensor with images and masks in, a displacement field out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Prediction(NamedTuple):
    """Output of a network for a pair.

    Attributes:
        ddf: (B, n, H, W[, D]) voxels.
        moving: image features of the moving image, unwarped, (B, channels[l], ...) for each level, fine to coarse.
        fixed: image features of the fixed image.
    """

    ddf: Tensor
    moving: list[Tensor]
    fixed: list[Tensor]


class PairNetwork(nn.Module, ABC):
    """Base class of the networks, which implement :meth:`compute`.

    Args:
        spatial_dims: 2 or 3.
        structures: number K of anatomical structures in the masks; their labels are 1 to K.
        feature_channels: of the finest features in :class:`Prediction`.

    Raises:
        ValueError: another number of dimensions, or no structure.
    """

    def __init__(self, spatial_dims: int, structures: int, feature_channels: int) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if structures < 1:
            raise ValueError(f"The masks need at least one structure, got {structures}.")
        self.spatial_dims, self.structures, self.feature_channels = spatial_dims, structures, feature_channels

    def forward(self, image: Tensor) -> Tensor:
        """Registers.

        Args:
            image: (B, 4, H, W[, D]): moving and fixed image in [0, 1], moving and fixed mask labels 0 to K; all on the
                fixed grid. Any size; masks of zeros are allowed.

        Returns:
            DDF (B, n, H, W[, D]) in voxels that pulls from the moving image.

        Raises:
            ValueError: another shape.
        """
        return self.predict(image).ddf

    def predict(self, image: Tensor) -> Prediction:
        """As :meth:`forward`, with the image features for the prototype terms."""
        if not torch.jit.is_scripting():
            self.check(image)
        return self.compute(image)

    def check(self, image: Tensor) -> None:
        """Raises ValueError unless an image is (B, 4, H, W[, D])."""
        n = self.spatial_dims
        if image.ndim != n + 2 or image.shape[1] != 4:
            raise ValueError(
                f"A {n}-D network takes (B, 4, {'H, W' if n == 2 else 'H, W, D'}), got {tuple(image.shape)}."
            )

    @abstractmethod
    def compute(self, image: Tensor) -> Prediction:
        """The prediction of an image (B, 4, H, W[, D]) whose shape has been checked."""
