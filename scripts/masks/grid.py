# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The grid on which a segmentation network sees an image, and the way back to the native grid."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from ..spatial.geometry import Geometry, reordered, resample

LAYOUTS = ("slices", "RAS", "LPS")
CLASSES_AT_ONCE = 4  # classes resampled together; all together would take several times the memory of the image


def as_volume(image: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry]:
    """A 2-D image (C, X, Y) as a volume of one slice; 3-D images unchanged."""
    if geometry.ndim == 3:
        return image, geometry
    return image[..., None], Geometry((*geometry.shape, 1), geometry.affine)


def arranged(geometry: Geometry, layout: str) -> Geometry:
    """The same voxels with axes in another order and direction.

    Args:
        geometry: a 3-D grid.
        layout: "slices" moves the axis of the thickest voxels to the end and flips nothing, because the orientation of
            a short-axis stack does not depend on the patient's axes; "RAS" and "LPS" choose the nearest patient axes.
    """
    signs = np.ones(3)
    if layout == "slices":
        last = int(np.argmax(geometry.spacing)) if max(geometry.spacing) > 1.01 * min(geometry.spacing) else 2
        if 1 in geometry.shape:
            last = geometry.shape.index(1)
        order = [axis for axis in range(3) if axis != last] + [last]
    elif layout in LAYOUTS:
        wanted = nib.orientations.axcodes2ornt(layout)
        change = nib.orientations.ornt_transform(nib.io_orientation(geometry.affine), wanted)
        order, signs = np.argsort(change[:, 0]), change[:, 1]
    else:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}.")
    return reordered(geometry, order, signs)


def model_grid(geometry: Geometry, layout: str, spacing_mm: tuple[float | None, ...]) -> Geometry:
    """The grid of a network that covers the box of a 3-D image.

    ``layout`` is that of :func:`arranged`; ``spacing_mm`` the voxel size along the arranged axes, None keeps that of
    the image.
    """
    grid = arranged(geometry, layout)
    shape = tuple(
        size if wanted is None else max(1, round(size * own / wanted))
        for size, own, wanted in zip(grid.shape, grid.spacing, spacing_mm)
    )
    return grid.resized(shape)


def native_labels(scores: Tensor, grid: Geometry, native: Geometry) -> Tensor:
    """The class of the highest score at every native voxel, (*native.shape) uint8.

    Scores are (K, *grid.shape) probabilities or logits on a 3-D grid, class 0 the background.
    """
    best = torch.full(native.shape, -torch.inf, device=scores.device)
    labels = torch.zeros(native.shape, dtype=torch.uint8, device=scores.device)
    for first in range(0, len(scores), CLASSES_AT_ONCE):
        part = resample(scores[first : first + CLASSES_AT_ONCE], grid, native)
        top, which = part.max(dim=0)
        better = top > best
        best = torch.where(better, top, best)
        labels[better] = (which[better] + first).to(torch.uint8)
    return labels
