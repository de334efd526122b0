# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Initial alignment: none, aligned centres, an affine map (:mod:`scripts.spatial.start`), or a transform file."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ..common.errors import InputError
from .files import load_itk_transform, load_numbers
from .geometry import LPS, Geometry, usable
from .likeness import Scan, to_sitk
from .linear import as_matrix
from .start import search

INITS = ("none", "moments", "affine")


@dataclass(frozen=True, eq=False)
class Start:
    """An initial alignment.

    Attributes:
        matrix: (4, 4) float64, fixed world to moving world, RAS mm.
        kind: how it was found: "none", "moments", "file", or the choice of the search: "affine", "similarity",
            "centres" or "as scanned".
        doubts: sentences for the user.
    """

    matrix: NDArray
    kind: str
    doubts: tuple[str, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether it is known to align the images: given by the user, or found by the search without a doubt."""
        return self.kind in ("file", "affine", "similarity") and not self.doubts


def align(fixed: Scan, moving: Scan, init: str) -> Start:
    """Finds the initial alignment.

    Args:
        fixed: the fixed image.
        moving: the moving image, of the same number of dimensions.
        init: "none", "moments" (centres of mass), "affine", or the path of a file: a (4, 4) text matrix in RAS mm, or
            an ITK transform; fixed world to moving world.

    Raises:
        ValueError: neither a known word nor a readable linear transform.
    """
    if init == "none":
        return Start(np.eye(4), "none")
    if init not in INITS:
        return Start(read_linear(init), "file")
    if init == "affine":
        found, doubts = search(fixed, moving)
        return Start(world_matrix(found.matrix, fixed.geometry, moving.geometry), found.kind, tuple(doubts))
    moments = sitk.CenteredTransformInitializer(
        *(to_sitk(scan.image, scan.geometry) for scan in (fixed, moving)),
        sitk.AffineTransform(fixed.geometry.ndim),
        sitk.CenteredTransformInitializerFilter.MOMENTS,
    )
    return Start(world_matrix(as_matrix(moments), fixed.geometry, moving.geometry), "moments")


def world_matrix(matrix: NDArray, fixed: Geometry, moving: Geometry) -> NDArray:
    """(4, 4) fixed world to moving world in RAS mm.

    Args:
        matrix: (n + 1, n + 1) between images of :func:`scripts.spatial.likeness.to_sitk`, fixed to moving, LPS mm.
        fixed: grid of the fixed image.
        moving: grid of the moving image.
    """
    if fixed.ndim == 3:
        return LPS @ matrix @ LPS
    plane = np.eye(4)
    plane[:2, :2], plane[:2, 3] = matrix[:2, :2], matrix[:2, 2]
    to_mm = [np.diag([*g.spacing, 1.0, 1.0]) for g in (fixed, moving)]
    return moving.affine @ np.linalg.inv(to_mm[1]) @ plane @ to_mm[0] @ np.linalg.inv(fixed.affine)


def transform_matrix(transform: sitk.Transform) -> NDArray:
    """(4, 4) RAS matrix of a linear SimpleITK transform of 2 or 3 dimensions, which maps LPS points."""
    small, matrix = as_matrix(transform), np.eye(4)
    n = len(small) - 1
    matrix[:n, :n], matrix[:n, 3] = small[:n, :n], small[:n, n]
    return LPS @ matrix @ LPS


def read_linear(path: str) -> NDArray:
    """Reads a linear transform: a (4, 4) text matrix in RAS mm, or an ITK transform file (.tfm, .txt, .mat, .h5)."""
    if not os.path.isfile(path):
        raise ValueError(f"init must be {', '.join(INITS)} or the path of a transform, and {path!r} is not a file.")
    matrix = load_numbers(path)
    if matrix.shape != (4, 4) or not np.allclose(matrix[3], [0, 0, 0, 1]):
        try:
            transform = load_itk_transform(path)
        except InputError as error:
            raise ValueError(f"{path} is neither a 4 x 4 matrix nor an ITK transform.") from error
        if not transform.IsLinear():
            raise ValueError(f"{path} holds a {transform.GetName()}; an initial alignment must be linear.")
        matrix = transform_matrix(transform)
    if not usable(matrix):
        raise ValueError(f"{path} holds an affine that is not finite or cannot be inverted; correct it.")
    return matrix
