# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Chains of transforms to and from ITK: .h5, .tfm, .mat and .txt files, composites, B-splines."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ..common.errors import InputError
from .affine import transform_matrix
from .chain import Field, Linear, Step
from .files import itk_name, quiet_itk
from .geometry import LPS, Geometry
from .itk_images import channels_of, itk_image, placed
from .linear import as_itk

HDF5_BYTES = 1 << 16  # of a file without values
ITK_SUFFIXES = (".h5", ".hdf5", ".tfm", ".mat", ".txt", ".xfm")


def vector_image(u_lps: NDArray, grid: Geometry) -> sitk.Image:
    """A displacement field (*grid.shape, 3) LPS mm as a 3-D float64 vector image; a 2-D one has a single slice."""
    return itk_image(np.moveaxis(np.asarray(u_lps, np.float64), -1, 0), grid, vector=True)


def field_of(image: sitk.Image) -> Field:
    """The field of a vector image of 2 or 3 dimensions, LPS mm."""
    vectors, affine = channels_of(image)
    u = np.zeros((*vectors.shape[1:], 3), np.float32)
    u[..., : len(vectors)] = np.moveaxis(vectors, 0, -1)
    if u.shape[2] == 1:
        u = u[:, :, 0]
    return Field(u, Geometry(u.shape[:-1], affine))


def to_itk(steps: Sequence[Step]) -> sitk.Transform:
    """A chain as an ITK transform of LPS points: an affine, a displacement field, or a composite of them."""
    transforms = [
        as_itk(LPS @ s.matrix @ LPS)
        if isinstance(s, Linear)
        else sitk.DisplacementFieldTransform(vector_image(s.u_lps, s.grid))
        for s in steps
    ]
    if len(transforms) == 1:
        return transforms[0]
    # ITK applies the transform that was added last first.
    return sitk.CompositeTransform(transforms[::-1]) if transforms else sitk.AffineTransform(3)


def from_itk(transform: sitk.Transform, reference: Geometry | None = None) -> list[Step]:
    """The chain of an ITK transform of 2 or 3 dimensions, which maps LPS points.

    A chain with a part that is neither affine nor a displacement field (a B-spline, say) becomes one field on the grid
    ``reference``; without it, :class:`InputError` is raised.
    """
    parts = _flat(transform)
    steps: list[Step] = []
    for part in parts:
        if part.IsLinear():
            steps.append(Linear(transform_matrix(part)))
        elif isinstance(part, sitk.DisplacementFieldTransform):
            steps.append(field_of(part.GetDisplacementField()))
        elif reference is None:
            raise InputError(f"A {part.GetName()} can only be read on a grid; give an image with --reference.")
        else:
            return [_sampled(transform, reference)]
    return steps


def write_itk_transform(path: str | Path, steps: Sequence[Step]) -> None:
    """Writes a chain as an ITK transform file.

    Args:
        path: .h5, .tfm or .txt for any chain, .mat or .xfm for a single transform.
        steps: the chain.

    Raises:
        InputError: a chain of several transforms in a format that holds one.
        OSError: the file is not complete.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".mat", ".xfm") and len(steps) > 1:
        raise InputError(f"{Path(path).name}: {suffix} files hold one transform, not {len(steps)}; write .h5 or .tfm.")
    hdf5 = suffix in (".h5", ".hdf5")
    size = 24 * sum(s.u_lps.size // 3 for s in steps if isinstance(s, Field)) + HDF5_BYTES
    free = shutil.disk_usage(Path(path).parent).free
    if hdf5 and size > free:  # when HDF5 itself meets a full disk, it ends the process with a segmentation fault
        raise OSError(f"the disk has {free >> 20} MB free, and {size >> 20} MB are needed")
    transform = to_itk(steps)
    try:
        with quiet_itk():
            sitk.WriteTransform(transform, itk_name(path))
            # ITK reports no error when the disk is full while it writes text; numbers are then missing or cut.
            complete = hdf5 or _same(sitk.ReadTransform(itk_name(path)), transform)
    except RuntimeError:
        complete = False
    if not complete:
        raise OSError(f"ITK cannot write {Path(path).name}; the disk may be full")


def _same(a: sitk.Transform, b: sitk.Transform) -> bool:
    """Whether two transforms agree but for the rounding of a text file."""
    parts = _flat(a), _flat(b)
    return len(parts[0]) == len(parts[1]) and all(
        x.shape == y.shape and np.allclose(x, y, rtol=1e-9, atol=1e-9)
        for pair in zip(*parts)
        for x, y in zip(*map(_values, pair))
    )


def _values(part: sitk.Transform) -> tuple[NDArray, NDArray]:
    if isinstance(part, sitk.DisplacementFieldTransform):  # its parameters as a tuple would fill the memory
        return np.asarray(part.GetFixedParameters()), sitk.GetArrayViewFromImage(part.GetDisplacementField())
    return np.asarray(part.GetFixedParameters()), np.asarray(part.GetParameters())


def _flat(transform: sitk.Transform) -> list[sitk.Transform]:
    """The parts of a transform in the order in which they map a point."""
    part = transform.Downcast()
    if not isinstance(part, sitk.CompositeTransform):
        return [part]
    flat = []
    for k in reversed(range(part.GetNumberOfTransforms())):
        flat += _flat(part.GetNthTransform(k))
    return flat


def _sampled(transform: sitk.Transform, reference: Geometry) -> Field:
    """Any transform as a displacement field on a grid."""
    if transform.GetDimension() != 3:
        raise InputError(f"A {transform.GetName()} of {transform.GetDimension()} dimensions cannot be read.")
    image = placed(sitk.Image([*reference.shape, *[1] * (3 - reference.ndim)], sitk.sitkUInt8), reference)
    place = image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()
    return field_of(sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *place))
