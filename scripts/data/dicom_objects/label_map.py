# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A DICOM Segmentation object as a label map: segment numbers as values, slices without a segment filled in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...common.errors import InputError
from ...spatial.geometry import LPS


def read_label_map(path: Path) -> tuple[NDArray, NDArray]:
    """The segment numbers (1, X, Y, Z) of a Segmentation object whose segments do not overlap, and the RAS affine.

    The file may lack the slices without a segment.

    Raises:
        InputError: a damaged object, segments that overlap, probabilities, or slices that are not evenly spaced.
    """
    # highdicom takes a second to import, and needs a newer pydicom than MONAI Label can have.
    import highdicom as hd

    try:
        segments = hd.seg.segread(path)
        if segments.segmentation_type == hd.seg.SegmentationTypeValues.FRACTIONAL:
            raise ValueError("its values are probabilities")
        volume = segments.get_volume(combine_segments=True)
    except Exception as error:  # a damaged object makes pydicom raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"{path} is a DICOM segmentation that cannot be read as a label map ({reason}); convert it to NIfTI, for "
            "example with 3D Slicer or dcmqi."
        ) from error
    array, affine = volume.array.transpose(2, 1, 0), LPS @ volume.affine[:, [2, 1, 0, 3]]
    if array.shape[2] == 1:  # one slice has a segment; a second, empty one keeps the label map three-dimensional
        array = np.concatenate([array, np.zeros_like(array)], axis=2)
    return array[None], affine
