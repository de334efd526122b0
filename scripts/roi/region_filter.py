# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Which masks of a slice count as regions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.errors import InputError
from ..sam.asked import Window, mostly_within
from ..sam.slice_masks import SliceMasks, low_size
from ..sam.suppress import keep_distinct


@dataclass(frozen=True)
class RegionFilter:
    """Which slice masks count as regions.

    Attributes:
        min_area: least share of the slice; the paper's 200 pixels of a 200 x 200 image.
        max_area: largest share; the paper's 7000 pixels.
        min_area_mm2: least area in mm2, which replaces the share where the size of the pixels is known: how much of a
            slice an organ fills depends on the field of view. None leaves it to the share.
        max_area_mm2: largest area in mm2, likewise.
        max_overlap: of two masks that overlap by more than this, the one of lower quality is removed.
        overlap: its measure: "smaller" is the intersection over the smaller mask, the paper's ratio, which drops nested
            masks; "iou" keeps them and drops only duplicates.
        max_border: largest share of the slice's border that a mask may cover.
    """

    min_area: float = 0.005
    max_area: float = 0.175
    max_overlap: float = 0.8
    overlap: str = "iou"
    max_border: float = 0.15
    min_area_mm2: float | None = None
    max_area_mm2: float | None = None

    def __post_init__(self) -> None:
        if self.overlap not in ("smaller", "iou"):
            raise InputError(f"overlap must be smaller or iou, got {self.overlap!r}.")
        if not 0 <= self.min_area < self.max_area <= 1:
            raise InputError(
                f"Region areas need 0 <= min_area < max_area <= 1, got {self.min_area} and {self.max_area}."
            )
        low, high = self.min_area_mm2, self.max_area_mm2
        if not 0 <= (low or 0.0) < (math.inf if high is None else high):
            raise InputError(f"Region areas need 0 <= min_area_mm2 < max_area_mm2, got {low} and {high}.")

    def __call__(self, masks: SliceMasks, pixel_mm2: float | None = None) -> SliceMasks:
        """The masks that pass, best first; ``pixel_mm2`` is the area of a pixel of the slice, None where unknown."""
        if not len(masks):
            return masks
        on = masks.masks(low_size(masks))
        share = on.flatten(1).float().mean(dim=1)
        least, most = self.limits(masks.size, pixel_mm2)
        edge = torch.ones_like(on[0])
        edge[1:-1, 1:-1] = False
        border = (on & edge).flatten(1).sum(dim=1) / edge.sum()
        good = (share >= least) & (share <= most) & (border <= self.max_border)
        masks, on = masks[good], on[good]
        order = masks.predicted_iou.argsort(descending=True, stable=True)
        masks, on = masks[order], on[order]
        return masks[keep_distinct(on, self.max_overlap, self.overlap)]

    def limits(self, size: tuple[int, int], pixel_mm2: float | None) -> tuple[float, float]:
        """Least and largest share of a slice of ``size`` pixels."""
        shares = self.min_area, self.max_area
        if pixel_mm2 is None:
            return shares
        whole = size[0] * size[1] * pixel_mm2
        absolute = self.min_area_mm2, self.max_area_mm2
        return tuple(share if area is None else area / whole for share, area in zip(shares, absolute))


def outside(masks: SliceMasks, window: Window) -> SliceMasks:
    """The masks of a whole slice whose boxes do not lie mostly in a window (x0, y0, x1, y1)."""
    ends = masks.boxes + masks.boxes.new_tensor([0, 0, 1, 1])
    return masks[~mostly_within(ends, window)]


def visible(masks: SliceMasks, look: Tensor, least: float = 0.5) -> SliceMasks:
    """The masks of a slice of which at least the share ``least`` is where the weight ``look`` (rows, columns) is 1."""
    size = low_size(masks)
    on = masks.masks(size).flatten(1).float()
    seen = F.interpolate(look[None, None].to(on), size, mode="area").flatten()
    return masks[on @ seen >= least * on.sum(dim=1)]
