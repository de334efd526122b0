# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Regions of an image that a registration must ignore: lesions, metal, resected tissue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ..common.errors import InputError
from ..spatial.geometry import Geometry, resample
from .reader import Volume


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


def weights_on(moving: Volume | None, fixed: Volume | None, working: Geometry, transform: NDArray) -> Tensor | None:
    """Weight of every voxel of both images on the working grid.

    Args:
        moving: voxels to exclude from the moving image, or None.
        fixed: those of the fixed image, or None.
        working: the grid.
        transform: (4, 4) fixed world to moving world, RAS mm.

    Returns:
        (2, *working.shape) in {0, 1}: moving and fixed, 0 in excluded voxels; None if nothing is excluded.
    """
    if moving is None and fixed is None:
        return None
    maps = []
    for exclude, matrix in ((moving, transform), (fixed, None)):
        weight = torch.ones(1, *working.shape)
        if exclude is not None:
            hidden = torch.from_numpy((exclude.array != 0).astype(np.float32))
            # Any share of an excluded voxel counts, because neighbouring values are interpolated from it.
            weight = (resample(hidden, exclude.geometry, working, matrix, fill=0.0) < 1e-3).float()
        maps.append(weight)
    return torch.cat(maps)
