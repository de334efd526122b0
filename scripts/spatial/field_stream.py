# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Writing a displacement field slab by slab: a field of a whole CT is never held twice in memory."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from numpy.typing import NDArray
from torch import Tensor

from .fields import VECTOR
from .geometry import LPS, Geometry, apply_affine

SLAB_VOXELS = 2_000_000


def stream_field(path: str | Path, ddf: Tensor, fixed: Geometry, transform: NDArray) -> None:
    """Writes the file of :func:`scripts.spatial.fields.write_field` from a field in voxels.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        ddf: (1, n, *fixed.shape) fixed voxels.
        fixed: its grid.
        transform: (4, 4) fixed world to moving world, RAS mm, applied after the field.
    """
    shape = (*fixed.shape, *[1] * (4 - fixed.ndim), 3)
    image = nib.Nifti1Image(np.broadcast_to(np.float32(0), shape), fixed.affine)
    image.header.set_intent(VECTOR, name="displacement LPS mm")
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    image.set_sform(fixed.affine, 1)
    image.set_qform(fixed.affine, 1)
    step = max(1, SLAB_VOXELS // int(np.prod(fixed.shape[:-1])))
    with ImageOpener(str(path), "wb") as stream:
        image.header.write_to(stream)
        stream.write(b"\0" * (image.header.get_data_offset() - stream.tell()))
        for component in range(3):  # the slowest axis of the file
            for start in range(0, fixed.shape[-1], step):
                part = ddf[0, ..., start : start + step].numpy()
                stream.write(_component(part, fixed, transform, start, component).tobytes(order="F"))


def _component(ddf: NDArray, fixed: Geometry, transform: NDArray, start: int, component: int) -> NDArray:
    """One component of a slab as float32, LPS mm."""
    axes = [np.arange(s, dtype=np.float64) for s in ddf.shape[1:]]
    axes[-1] += start
    index = np.zeros((*ddf.shape[1:], 3))
    index[..., : fixed.ndim] = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    target = index.copy()
    target[..., : fixed.ndim] += np.moveaxis(ddf, 0, -1)
    moved = apply_affine(transform, apply_affine(fixed.affine, target)) - apply_affine(fixed.affine, index)
    return (moved @ LPS[:3, :3].T)[..., component].astype(np.float32)
