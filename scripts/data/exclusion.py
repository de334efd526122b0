# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""What a registration must ignore: lesions, metal, resected tissue, and what lies outside the field of view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ..common.errors import InputError
from ..spatial.geometry import Geometry, resample
from .reader import Volume

DARK = 0.1  # of the brightest value of a photograph; its frame is darker in every channel


def filled(image: Volume, exclude: Volume | None) -> Volume:
    """An image with each excluded voxel replaced by the nearest one that is not, so that nothing depends on them.

    Args:
        image: (C, *shape).
        exclude: (1, *shape), excluded where it is not 0; None excludes nothing.

    Raises:
        InputError: the mask excludes the whole image.
    """
    if exclude is None:
        return image
    hidden = exclude.array[0] != 0
    if hidden.all():
        raise InputError(f"{exclude.path} excludes all of {image.path}; mark only the voxels to ignore with 1.")
    nearest = ndimage.distance_transform_edt(
        hidden, sampling=image.geometry.spacing, return_distances=False, return_indices=True
    )
    return replace(image, array=image.array[(slice(None), *nearest)])


def hidden_on(exclude: Volume | None, grid: Geometry) -> NDArray | None:
    """Bool (*grid.shape): the voxels of a coarser grid over the same box that contain part of an excluded voxel."""
    if exclude is None:
        return None
    hidden = torch.from_numpy(exclude.array[0] != 0).float()[None, None]
    pool = torch.nn.functional.adaptive_max_pool3d if grid.ndim == 3 else torch.nn.functional.adaptive_max_pool2d
    return pool(hidden, grid.shape)[0, 0].numpy() > 0


def weights_on(pair: Sequence[tuple[Geometry, Volume | None]], working: Geometry, transform: NDArray) -> Tensor | None:
    """Weight of every voxel of both images on the working grid.

    Args:
        pair: (grid, excluded voxels or None) of the moving and the fixed image.
        working: the grid.
        transform: (4, 4) fixed world to moving world, RAS mm.

    Returns:
        (2, *working.shape) in {0, 1}: moving and fixed, 0 in voxels that are excluded or that the image does not show;
        None if there are none.
    """
    maps = []
    for (grid, exclude), matrix in zip(pair, (transform, None)):
        hidden = torch.zeros(1).expand(1, *grid.shape)
        if exclude is not None:
            hidden = torch.from_numpy((exclude.array != 0).astype(np.float32))
        # Any share of an excluded voxel counts, because neighbouring values are interpolated from it.
        maps.append((resample(hidden, grid, working, matrix, fill=1.0) < 1e-3).float())
    weight = torch.cat(maps)
    return None if weight.all() else weight


def hide_frames(images: Tensor, weight: Tensor | None) -> Tensor | None:
    """Excludes the black frames of two photographs, whose edges would be aligned like anatomy.

    A frame is a dark area at the border of the image. Its edge is blurred, so two pixels beside it count, too.

    Args:
        images: (6, H, W) in [0, 1], moving and fixed in colour.
        weight: (2, H, W) of the pixels so far, or None.
    """
    shown = torch.ones(2, *images.shape[1:]) if weight is None else weight.clone()
    for image, place in zip(images.chunk(2), shown):
        dark = np.pad(image.amax(dim=0).numpy() < DARK, 1, constant_values=True)
        labels, _ = ndimage.label(dark)
        frame = ndimage.binary_dilation((labels == labels[0, 0])[1:-1, 1:-1], iterations=2)
        place[torch.from_numpy(frame)] = 0
    return None if shown.all() else shown
