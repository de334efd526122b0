# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Transform files of ITK, ANTs, Slicer, Learn2Reg and of this project, told apart by suffix and read into a chain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..common.errors import InputError
from ..common.files import there
from ..common.staging import complete_result
from .chain import SAME_GRID_VOX, Field, GridMap, Linear, Step, displacements
from .fields import VECTOR, check_finite, read_field, write_field
from .files import load_itk_transform, load_numbers, read_itk
from .geometry import FARTHEST_MM, LPS, Geometry, same_grid, usable
from .itk_images import write_itk
from .itk_transforms import ITK_SUFFIXES, field_of, from_itk, vector_image, write_itk_transform
from .learn2reg import read_learn2reg, write_learn2reg

NIFTI = (".nii", ".nii.gz")
VECTOR_IMAGES = (".nrrd", ".nhdr", ".mha", ".mhd")
INVERSE = "inverse:"
FIELD_NAME, RECORD_NAME = "ddf.nii.gz", "correspondence.json"  # of a result folder
WRITABLE = (*NIFTI, *VECTOR_IMAGES, *ITK_SUFFIXES, ".npz")


def transform_names(transforms: str | Path | Sequence[str | Path]) -> list[str]:
    """The paths of a list, or of one text separated by commas."""
    if isinstance(transforms, str) and not there(transforms):
        return [name.strip().strip("[]'\" ") for name in transforms.split(",") if name.strip("[]'\" ")]
    if isinstance(transforms, (str, Path)):
        return [str(transforms)]
    if not isinstance(transforms, Sequence) or not all(isinstance(name, (str, Path)) for name in transforms):
        raise InputError(f"Transforms must be files, got {transforms!r}.")
    return [str(name) for name in transforms]


def transform_paths(transforms: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files of a list of transforms, with result folders and ``inverse:`` resolved."""
    return [_file(name.removeprefix(INVERSE)) for name in transform_names(transforms)]


def read_chain(
    transforms: str | Path | Sequence[str | Path],
    fixed: Geometry | None = None,
    moving: Geometry | None = None,
    *,
    learn2reg: bool = False,
) -> list[Step]:
    """Reads a list of transforms; raises :class:`InputError` for a file that is missing, unreadable or no transform.

    Args:
        transforms: files in the order in which a fixed point passes through them, as in
            ``antsApplyTransforms -t``: those of the fixed image first. Displacement fields as NIfTI, NRRD or
            MetaImage; ITK's .h5, .tfm, .mat, .txt; a 4 x 4 matrix in RAS mm as text; Learn2Reg's .npz; the result
            folder of a registration. ``inverse:`` before an affine file inverts it.
        fixed: grid of the fixed image, for Learn2Reg fields and B-splines.
        moving: grid of the moving image, for Learn2Reg fields; None takes the fixed one.
        learn2reg: NIfTI fields without an intent are Learn2Reg's, in voxels.
    """
    names = transform_names(transforms)
    if not names:
        raise InputError("No transform was given; give a displacement field, an affine or a result folder.")
    steps: list[Step] = []
    for name in names:
        found = _read(_file(name.removeprefix(INVERSE)), fixed, moving, learn2reg)
        _check(found, name)
        if name.startswith(INVERSE):
            if not all(isinstance(s, Linear) for s in found):
                raise InputError(f"{name}: only affines can be inverted here; run `invert` on a field first.")
            found = [Linear(np.linalg.inv(s.matrix)) for s in reversed(found)]
        steps += found
    return steps


def as_field(steps: Sequence[Step], grid: Geometry) -> Field:
    """A whole chain as one displacement field on a grid, linear between voxels."""
    if len(steps) == 1 and isinstance(steps[0], Field) and same_grid(steps[0].grid, grid, SAME_GRID_VOX):
        return steps[0]
    millimetres = Geometry((1, 1, 1), LPS)  # a grid whose voxels are LPS mm
    u = displacements(GridMap(steps, grid, millimetres), GridMap([], grid, millimetres))
    return Field(np.moveaxis(u, 0, -1), grid)


def write_chain(
    path: str | Path,
    steps: Sequence[Step],
    grid: Geometry | None,
    moving: Geometry | None = None,
    *,
    intent: int = VECTOR,
    layout: str = "last",
) -> None:
    """Writes a chain as one transform; the suffix decides the format.

    Args:
        path: NIfTI, NRRD or MetaImage field, ITK transform (an affine stays an affine), or Learn2Reg ``.npz``.
        steps: the chain.
        grid: grid of the field; not needed for affines in a format that can store them.
        moving: grid of the moving image, for ``.npz``; None takes ``grid``.
        intent: of a NIfTI field, 1007 (LPS mm) or 1006 (RAS mm).
        layout: of an npz, see :func:`scripts.spatial.learn2reg.write_learn2reg`.
    """
    path = Path(path)
    kind = suffix_of(path, WRITABLE)
    linear = all(isinstance(s, Linear) for s in steps)
    if kind in ITK_SUFFIXES and linear:
        matrix = np.eye(4)
        for step in steps:
            matrix = step.matrix @ matrix
        write_itk_transform(path, [Linear(matrix)])
        return
    if grid is None:
        raise InputError(f"{path.name}: a field needs a grid; give an image with --reference.")
    if kind == ".npz":
        write_learn2reg(path, steps, grid, moving or grid, layout)
        return
    field = as_field(steps, grid)
    check_finite(field.u_lps)
    if kind in NIFTI:
        write_field(path, field.u_lps, grid, intent)
    elif kind in VECTOR_IMAGES:
        write_itk(path, sitk.Cast(vector_image(field.u_lps, grid), sitk.sitkVectorFloat32))
    else:
        write_itk_transform(path, [field])


def suffix_of(path: str | Path, known: Sequence[str]) -> str:
    """The longest of the known suffixes that a path ends in; :class:`InputError` if none fits."""
    name = Path(path).name.lower()
    fitting = [s for s in known if name.endswith(s)]
    if not fitting:
        raise InputError(f"{path} ends in none of {', '.join(known)}; the suffix determines the format.")
    return max(fitting, key=len)


def _file(name: str) -> Path:
    path = Path(name)
    if os.path.isdir(path):
        path = (complete_result(path, RECORD_NAME) or path) / FIELD_NAME
        if not path.exists():
            raise InputError(f"{name} is a folder without {FIELD_NAME}; give a result folder or a transform file.")
    if not there(path):
        raise InputError(f"{path} does not exist; give the path of a transform.")
    return path


def _read(path: Path, fixed: Geometry | None, moving: Geometry | None, learn2reg: bool) -> list[Step]:
    kind = suffix_of(path, WRITABLE)
    if kind == ".npz":
        return [read_learn2reg(path, fixed, moving)]
    if kind in NIFTI:
        return [_read_nifti(path, fixed, moving, learn2reg)]
    if kind in VECTOR_IMAGES:
        return [_read_vector_image(path)]
    matrix = load_numbers(path) if kind == ".txt" else np.empty(0)
    if matrix.size:
        if matrix.shape != (4, 4) or not np.allclose(matrix[3], [0, 0, 0, 1]):
            raise InputError(f"{path} holds numbers of shape {matrix.shape}; an affine is 4 x 4 with 0 0 0 1 below.")
        return [Linear(matrix)]
    return from_itk(load_itk_transform(path), fixed)


def _read_nifti(path: Path, fixed: Geometry | None, moving: Geometry | None, learn2reg: bool) -> Field:
    try:
        return Field(*read_field(path))
    except InputError:
        raise
    except ValueError as error:
        if learn2reg:
            return read_learn2reg(path, fixed, moving)
        raise InputError(str(error)) from error


def _check(steps: Sequence[Step], name: str) -> None:
    """Raises :class:`InputError` for implausible numbers, which would only give an empty image."""
    for step in steps:
        if isinstance(step, Field) and not step.u_lps.size:
            raise InputError(f"{name} is a field of shape {step.u_lps.shape}, which has no voxel.")
        if not usable(step.matrix if isinstance(step, Linear) else step.grid.affine):
            raise InputError(f"{name} has an affine that is not finite or cannot be inverted; correct its header.")
        if isinstance(step, Field) and not -FARTHEST_MM < step.u_lps.min() <= step.u_lps.max() < FARTHEST_MM:
            raise InputError(f"{name} holds displacements that are NaN, infinite or beyond {FARTHEST_MM:g} mm.")


def _read_vector_image(path: Path) -> Field:
    image = read_itk(path)
    if image.GetNumberOfComponentsPerPixel() != image.GetDimension():
        raise InputError(
            f"{path} has {image.GetNumberOfComponentsPerPixel()} components per voxel; a displacement field in "
            f"{image.GetDimension()} dimensions has {image.GetDimension()}."
        )
    return field_of(image)
