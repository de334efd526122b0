# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Masks of many regions in little memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..metrics.overlap import bounding_boxes


class RegionMasks(Sequence):
    """The masks of K regions, each stored as the box around it; whole masks of a CT would take 1.5 GB.

    Items are whole masks (*shape), built when they are read.

    Args:
        masks: (K, *shape) coverage.
    """

    def __init__(self, masks: Tensor) -> None:
        self.shape, self.dtype = tuple(masks.shape), masks.dtype
        self.parts = [(box, mask[box].clone()) for box, mask in zip(bounding_boxes(masks), masks)]

    @classmethod
    def of(cls, masks: Sequence[Tensor]) -> RegionMasks:
        """Masks (K, *shape) as such, which these may be already."""
        return masks if isinstance(masks, cls) else cls(torch.as_tensor(masks))

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Tensor:
        box, part = self.parts[index]
        mask = torch.zeros(self.shape[1:], dtype=self.dtype)
        mask[box] = part
        return mask

    def whole(self) -> Tensor:
        """All masks (K, *shape)."""
        masks = torch.zeros(self.shape, dtype=self.dtype)
        for mask, (box, part) in zip(masks, self.parts):
            mask[box] = part
        return masks
