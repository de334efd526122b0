# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The contract of a registration network: one tensor with images and masks in, a displacement field out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        total_stride: voxels of the image per voxel of the coarsest level, along each axis.

    Raises:
        ValueError: another number of dimensions, or no structure.
    """

    def __init__(self, spatial_dims: int, structures: int, feature_channels: int, total_stride: list[int]) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if structures < 1:
            raise ValueError(f"The masks need at least one structure, got {structures}.")
        self.spatial_dims, self.structures, self.feature_channels = spatial_dims, structures, feature_channels
        self.total_stride = total_stride

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

    def pad(self, image: Tensor) -> Tensor:
        """Repeats the far borders of an image until every level divides exactly."""
        return pad_far(image, multiples(image.shape[2:], self.total_stride))

    def adapt_to(self, state: Mapping[str, Tensor]) -> None:
        """Takes over the options of a training that show in its weights, before they are loaded."""

    @abstractmethod
    def compute(self, image: Tensor) -> Prediction:
        """The prediction of an image (B, 4, H, W[, D]) whose shape has been checked."""


def pad_far(image: Tensor, sizes: list[int]) -> Tensor:
    """Repeats the far borders of an image (B, C, *shape) up to these sizes."""
    padding: list[int] = []
    for old, new in zip(image.shape[2:][::-1], sizes[::-1]):
        padding += [0, new - old]
    return F.pad(image, padding, mode="replicate") if sum(padding) > 0 else image


def crop_far(field: Tensor, shape: list[int]) -> Tensor:
    """The part of a field (B, n, *sizes) that belongs to an image of this shape before :func:`pad_far`."""
    for axis, size in enumerate(shape):
        field = field.narrow(2 + axis, 0, size)
    return field


def multiples(shape: list[int], steps: list[int]) -> list[int]:
    """Each size rounded up to a multiple of its step."""
    return [-(-size // step) * step for size, step in zip(shape, steps)]
