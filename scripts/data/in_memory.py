# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Images and points that a MONAI pipeline has in memory: arrays, which have the identity as affine, or MetaTensors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys, convert_to_dst_type, convert_to_numpy
from numpy.typing import NDArray

from ..common.errors import InputError
from ..spatial.geometry import LPS

NAME = ImageMetaKey.FILENAME_OR_OBJ


def image_of(data: Mapping[Hashable, Any], key: Hashable) -> tuple[NDArray, NDArray]:
    """The array (C, X, Y[, Z]) of an image of a dictionary, and its affine (4, 4), voxel index to RAS mm.

    Raises:
        InputError: a missing key, an image that is not loaded, or another number of axes.
    """
    if data.get(key) is None:
        raise InputError(f'There is no "{key}" in the data, which has {", ".join(map(str, data)) or "no keys"}.')
    array = convert_to_numpy(data[key])
    if not isinstance(array, np.ndarray):
        raise InputError(f'"{key}" is {data[key]!r}, not an array; load the image first, for example with LoadImaged.')
    if array.ndim not in (3, 4):
        raise InputError(f'"{key}" has the shape {array.shape}; it must be one frame, (C, X, Y) or (C, X, Y, Z).')
    return array, affine_of(meta_of(data[key]))


def meta_of(image: Any) -> dict[str, Any]:
    """The meta data of an image, the affine included; none of an array."""
    return dict(image.meta) if isinstance(image, MetaTensor) else {}


def affine_of(meta: Mapping[str, Any]) -> NDArray:
    """(4, 4) float64, voxel index to RAS mm, from an affine of any number of dimensions in RAS or LPS."""
    affine = np.eye(4)
    if MetaKeys.AFFINE in meta:
        affine = to_affine_nd(3, convert_to_numpy(meta[MetaKeys.AFFINE], dtype=np.float64))
    return LPS @ affine if meta.get(MetaKeys.SPACE) == SpaceKeys.LPS else affine


def on_grid(array: NDArray, meta: Mapping[str, Any], name: Any = None, operations: Sequence = ()) -> MetaTensor:
    """An array (C, *shape) on the grid of an image.

    Args:
        array: (C, *shape).
        meta: of the image. All of it is kept, because savers resample to the original affine.
        name: of the file that the array comes from, if it is not that of the image.
        operations: transforms applied to the array before, see :class:`monai.data.MetaTensor`.
    """
    meta = dict(meta) if name is None else {**meta, NAME: name}
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array)), meta=meta, applied_operations=[*operations])


def points_of(data: Mapping[Hashable, Any], key: Hashable) -> NDArray:
    """The points (..., 3) of a dictionary as (L, 3); :class:`InputError` if they are missing or have another shape."""
    if data.get(key) is None or np.shape(convert_to_numpy(data[key]))[-1:] != (3,):
        raise InputError(f'Points (..., 3) in RAS mm are needed under "{key}".')
    return convert_to_numpy(data[key], dtype=np.float64).reshape(-1, 3)


def points_like(points: NDArray, like: Any) -> Any:
    """Points (L, 3) in the shape and type of others; whole numbers become float32."""
    dtype = None if convert_to_numpy(like).dtype.kind == "f" else np.float32
    return convert_to_dst_type(points.reshape(like.shape), like, dtype=dtype)[0]
