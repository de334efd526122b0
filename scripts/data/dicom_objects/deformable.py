# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The displacement field as a Deformable Spatial Registration object (DICOM PS3.3 A.39.2 and C.20.3).

The standard's grid maps a point of the registered (fixed) frame of reference to the source (moving) frame, in LPS mm:
the direction and the unit of our field.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ...common.errors import InputError
from ...spatial.geometry import LPS, Geometry, reordered
from .series import Series, code, decimal, instance_reference, new_object, reference_both

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.66.3"


def write_deformable(path: str | Path, u_lps: NDArray, grid: Geometry, moving: Series, fixed: Series) -> None:
    """Writes a field (X, Y, Z, 3), LPS mm from the fixed to the moving series.

    Raises:
        InputError: the grid is not right-angled, which the standard cannot express.
    """
    u = u_lps
    if np.linalg.det(grid.affine[:3, :3]) < 0:  # the standard derives the third axis as a cross product
        grid, u = reordered(grid, (0, 1, 2), (1, 1, -1)), u[:, :, ::-1]
    affine, spacing = LPS @ grid.affine, grid.spacing
    axes = affine[:3, :3] / spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise InputError("The axes of the field's grid are not at right angles, which DICOM cannot express.")
    field = Dataset()
    field.ImageOrientationPatient = decimal([*axes[:, 0], *axes[:, 1]])
    field.ImagePositionPatient = decimal(affine[:3, 3])
    field.GridDimensions = [int(n) for n in u.shape[:3]]
    field.GridResolution = list(spacing)
    field.VectorGridData = np.ascontiguousarray(u.transpose(2, 1, 0, 3), "<f4").tobytes()
    item = Dataset()
    item.SourceFrameOfReferenceUID = moving.first.FrameOfReferenceUID
    item.ReferencedImageSequence = [instance_reference(d) for d in moving.slices]
    item.RegistrationTypeCodeSequence = [code("125024", "Image Content-based Alignment")]
    item.DeformableRegistrationGridSequence = [field]
    made = new_object(fixed, SOP_CLASS, "REG", 9001, "Deformable registration")
    made.ContentLabel, made.ContentDescription, made.ContentCreatorName = "REGISTRATION", "", ""
    made.DeformableRegistrationSequence = [item]
    reference_both(made, moving, fixed)
    made.save_as(path, enforce_file_format=True)
