# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Cropping a training pair to its structures, in mm."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Transform


class CropAroundMasks(Transform):
    """Crops a pair to the box of the masks of both images, enlarged by a margin. No structure is cut.

    ``margin_mm`` is added on each side; None keeps whole images. ``keys`` are tensors (2, *shape) of the output of
    :class:`scripts.data.structures.PairTensors`. A pair without masks is not cropped.
    """

    def __init__(
        self, margin_mm: float | None = None, keys: tuple[str, ...] = ("image", "masks", "targets", "labels")
    ) -> None:
        self.margin_mm, self.keys = margin_mm, keys

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        inside = torch.as_tensor(data["masks"]).amax(dim=0) > 0
        if self.margin_mm is None or not inside.any():
            return dict(data)
        places = inside.nonzero()
        margin = (self.margin_mm / torch.as_tensor(data["spacing"])).ceil().long()
        low = (places.amin(dim=0) - margin).clamp_min(0).tolist()
        high = (places.amax(dim=0) + 1 + margin).tolist()
        box = (slice(None), *(slice(a, b) for a, b in zip(low, high)))
        # A copy: a view would keep the whole image in the cache.
        return {**data, **{key: data[key][box].clone() for key in self.keys if key in data}}
