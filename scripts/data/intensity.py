# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Intensity windows: raw intensities to [0, 1], the input range of every model of this project."""

from __future__ import annotations

import torch
from monai.transforms import ScaleIntensityRange, ScaleIntensityRangePercentiles
from torch import Tensor

CT_SOFT_TISSUE_HU = (-125.0, 275.0)
MR_PERCENTILES = (0.5, 99.5)
WINDOWS = ("auto", "mr", "ct", "none")


def guess_window(image: Tensor) -> str:
    """Chooses the window of an image: "ct" for Hounsfield-like values, "none" for 8-bit pictures, else "mr"."""
    low, high = float(image.min()), float(image.max())
    if low < -20:
        return "ct"
    if low >= 0 and high <= 255 and image.shape[0] == 3:
        return "none"
    return "mr"


def apply_window(image: Tensor, window: str = "auto") -> Tensor:
    """Maps raw intensities (C, H, W[, D]) to float32 in [0, 1].

    Args:
        image: raw intensities.
        window: "mr" clips at the 0.5 and 99.5 percentiles, "ct" at -125 and 275 HU, "none" takes 8-bit values (or
            values already in [0, 1]) as they are, "auto" chooses by :func:`guess_window`.

    Raises:
        ValueError: an unknown window, or "none" for values outside 0..255.
    """
    if window not in WINDOWS:
        raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}.")
    image = torch.as_tensor(image).float()
    window = guess_window(image) if window == "auto" else window
    if window == "ct":
        return ScaleIntensityRange(*CT_SOFT_TISSUE_HU, 0.0, 1.0, clip=True)(image)
    if window == "mr":
        return ScaleIntensityRangePercentiles(*MR_PERCENTILES, 0.0, 1.0, clip=True)(image)
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 255:
        raise ValueError(f"window 'none' needs values in [0, 255] or [0, 1], got {low:g}..{high:g}; use mr or ct.")
    return image / 255 if high > 1 else image
