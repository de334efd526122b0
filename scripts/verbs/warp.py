# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``warp``: images, label maps and landmarks warped with a registration, in one interpolation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..common.errors import InputError
from ..common.files import check_outputs, whole_file
from ..correspondence.moved_regions import move_regions
from ..data.reader import Volume, read_volume
from ..data.segmentations import SUFFIX as SEGMENTATION
from ..data.segmentations import read_segmentation, write_segmentation
from ..data.writer import IMAGES, as_stored, write_volume
from ..spatial.chain import Field, Step, map_points
from ..spatial.files import limited, quiet_itk
from ..spatial.geometry import Geometry, extent_text, overlap
from ..spatial.inversion import invert_points
from ..spatial.landmark_files import SUFFIXES, Landmarks, read_landmark_file, write_landmark_file
from ..spatial.resampling import INTERPOLATIONS, resample_image, resample_labels
from ..spatial.transform_files import read_chain, suffix_of, transform_paths

logger = logging.getLogger(__name__)

ONEHOT = "onehot"
DIRECTIONS = ("fixed_to_moving", "moving_to_fixed")
FEW_LABELS, SAMPLED = 40, 100_000
LABEL_INTENT = 1002  # NIfTI's code for label maps


@limited
def warp(
    input: str | Path,
    output: str | Path,
    transforms: str | Path | Sequence[str | Path],
    reference: str | Path | None = None,
    moving: str | Path | None = None,
    label: bool | None = None,
    interpolation: str | None = None,
    fill: float | None = None,
    frame: int | None = None,
    direction: str = "fixed_to_moving",
    points_frame: str | None = None,
    learn2reg: bool = False,
    progress: bool = True,
    max_image_gb: float = 4.0,
) -> dict:
    """Warps an image, a label map or landmarks with a registration.

    Images and labels are pulled: the moving image is resampled on the fixed grid. Points go the other way: a fixed
    point is mapped to the moving image; ``direction="moving_to_fixed"`` inverts the map at each point.

    Args:
        input: image, label map, or landmarks (.csv, .txt, .fcsv, .mrk.json).
        output: file to write; its suffix gives the format.
        transforms: one or several, in the order in which a fixed point passes through them (that of
            ``antsApplyTransforms -t``), see docs/fields.md.
        reference: image whose grid the result gets; None takes the grid of the first field. For landmarks the fixed
            image, needed for voxel indices.
        moving: the moving image, needed for landmarks that are voxel indices in it and for Learn2Reg fields between
            grids that differ.
        label: whether the input is a label map; None decides by the NIfTI intent (1002) and the name (.seg.nrrd).
        interpolation: of images "linear" (default), "cubic" or "nearest"; of label maps "nearest" (default) or "onehot"
            (each label linear on its own, the largest wins).
        fill: value outside the moving image; None takes the lowest value of the image, 0 for labels.
        frame: frame of a 4-D series.
        direction: of landmarks: fixed_to_moving or moving_to_fixed.
        points_frame: of landmarks in text files: "ras" (default), "lps" or "voxel"; the result is written in the same.
        learn2reg: reads NIfTI fields without an intent as Learn2Reg fields.
        progress: shows a bar.
        max_image_gb: largest image or field in memory, in 1e9 bytes; a larger one is refused before it is read.

    Returns:
        "output"; for images "inside_percent", the share of the result that lies in the moving image; for landmarks
        "points".

    Raises:
        InputError: the input cannot be used; one sentence says why.
    """
    if direction not in DIRECTIONS:
        raise InputError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}.")
    inputs = [input, *transform_paths(transforms), *(p for p in (reference, moving) if p)]
    check_outputs([output], inputs)
    fixed_grid = read_volume(reference, frame=0).geometry if reference else None
    moving_grid = read_volume(moving, frame=0).geometry if moving else None
    if str(input).lower().endswith(SUFFIXES):
        steps = read_chain(transforms, fixed_grid, moving_grid, learn2reg=learn2reg)
        return _warp_landmarks(input, output, steps, fixed_grid, moving_grid, direction, points_frame, inputs)
    if has_layers(input):
        if not str(output).lower().endswith(SEGMENTATION):
            raise InputError(
                f"{input} has overlapping regions, which only a {SEGMENTATION} file can hold; got {output}."
            )
        regions = read_segmentation(input)
        steps = read_chain(transforms, fixed_grid, moving_grid or regions.geometry, learn2reg=learn2reg)
        grid = fixed_grid or _first_grid(steps)
        moved, inside = move_regions(regions, grid, steps)
        _check_inside(inside, input, regions.geometry, grid)
        with whole_file(output, inputs) as path:
            write_segmentation(path, moved)
        return {"output": str(output), "inside_percent": round(100 * inside, 2)}
    suffix_of(output, IMAGES)
    volume = read_volume(input, frame=frame, label=bool(label))
    is_label = _is_label(volume) if label is None else label
    interpolation = interpolation or ("nearest" if is_label else "linear")
    _check_interpolation(interpolation, is_label, input)
    steps = read_chain(transforms, fixed_grid, moving_grid or volume.geometry, learn2reg=learn2reg)
    grid = fixed_grid or _first_grid(steps)
    _check_grids(steps, grid, volume)
    if not is_label and looks_like_labels(volume):
        logger.warning("%s looks like a label map and is warped as an image; give --label if it is one", input)
    if is_label:
        volume = replace(volume, array=whole_numbers(volume))
    if fill is not None:
        _check_fill(fill, volume if is_label else None)
    if interpolation == ONEHOT:
        array, inside = resample_labels(volume.array[0], volume.geometry, grid, steps, progress=progress)
        array = array[None]
    else:
        fill = fill if fill is not None else 0 if is_label else float(volume.array.min())
        array, inside = resample_image(
            volume.array, volume.geometry, grid, steps, interpolation=interpolation, fill=fill, progress=progress
        )
    _check_inside(inside, input, volume.geometry, grid)
    with whole_file(output, inputs) as path:
        write_volume(path, array if is_label else as_stored(array, volume), grid, volume)
    return {"output": str(output), "inside_percent": round(100 * inside, 2)}


def whole_numbers(volume: Volume) -> np.ndarray:
    """The array of a label map, in an integer type; :class:`InputError` for colour or other values."""
    if len(volume.array) != 1:
        raise InputError(f"{volume.path} has {len(volume.array)} values per voxel; a label map has one.")
    if volume.array.dtype.kind in "iu":
        return volume.array
    rounded = np.rint(volume.array)
    if not np.allclose(volume.array, rounded, atol=1e-3):
        raise InputError(f"{volume.path} holds values that are not whole numbers, so it is not a label map.")
    return rounded.astype(np.int32)


def looks_like_labels(volume: Volume) -> bool:
    """Whether an image holds a few whole numbers only; a guess for a warning, from a sample of its voxels."""
    if volume.is_picture or len(volume.array) != 1 or volume.array.dtype.kind not in "iu":
        return False
    values = volume.array.reshape(-1)
    return len(np.unique(values[:: max(1, values.size // SAMPLED)])) <= FEW_LABELS


def _is_label(volume: Volume) -> bool:
    if volume.path.lower().endswith(SEGMENTATION):
        return True
    return volume.header is not None and int(volume.header["intent_code"]) == LABEL_INTENT


def _check_interpolation(interpolation: str, is_label: bool, input: str | Path) -> None:
    allowed = ("nearest", ONEHOT) if is_label else INTERPOLATIONS
    if interpolation not in allowed:
        what = "label map" if is_label else "image"
        why = "; values between two labels are not labels" if is_label and interpolation in INTERPOLATIONS else ""
        raise InputError(f"The {what} {input} takes interpolation {' or '.join(allowed)}, not {interpolation!r}{why}.")


def _check_fill(fill: float, labels: Volume | None) -> None:
    if not isinstance(fill, (int, float)):
        raise InputError(f"fill must be a number, got {fill!r}.")
    if labels is not None:
        limits = np.iinfo(labels.array.dtype)
        if fill != int(fill) or not limits.min <= fill <= limits.max:
            raise InputError(f"fill must be a label that fits {labels.path}, {limits.min} to {limits.max}, got {fill}.")


def _first_grid(steps: Sequence[Step]) -> Geometry:
    for step in steps:
        if isinstance(step, Field):
            return step.grid
    raise InputError("The transforms are affine and have no grid; name the fixed image with --reference.")


def _check_grids(steps: Sequence[Step], grid: Geometry, volume: Volume) -> None:
    """Raises :class:`InputError` for grids that cannot belong together."""
    if grid.ndim != volume.geometry.ndim:
        raise InputError(
            f"{volume.path} is {volume.geometry.ndim}-D and the result's grid is {grid.ndim}-D; "
            "both must have the same number of dimensions."
        )
    if steps and isinstance(steps[0], Field):
        field = steps[0].grid
        if field.ndim != grid.ndim or not overlap(field, grid, np.eye(4)):
            raise InputError(
                f"The field and the result's grid do not overlap: the field covers {extent_text(field)} and the grid "
                f"{extent_text(grid)}; was the field made for another pair, or is it the inverse?"
            )
        low, high = field.corners_ras().min(axis=0), field.corners_ras().max(axis=0)
        corners = grid.corners_ras()
        if np.any(corners < low - max(field.spacing)) or np.any(corners > high + max(field.spacing)):
            logger.warning("the result's grid reaches beyond the field, where nothing is displaced (as in ITK)")


def has_layers(path: str | Path) -> bool:
    """Whether a file is a segmentation with overlapping regions; all are moved, with their names and colours."""
    if not str(path).lower().endswith(SEGMENTATION) or not Path(path).is_file():
        return False
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError:  # the reader of images reports what is wrong with it
        return False
    return reader.GetNumberOfComponents() > 1


def _check_inside(inside: float, input: str | Path, covered: Geometry, grid: Geometry) -> None:
    if not inside:
        raise InputError(
            f"No part of {input} falls on the result's grid: the image covers {extent_text(covered)}, the grid "
            f"{extent_text(grid)}; check --reference, the order of the transforms and their direction."
        )


def _warp_landmarks(
    input: str | Path,
    output: str | Path,
    steps: Sequence[Step],
    fixed: Geometry | None,
    moving: Geometry | None,
    direction: str,
    points_frame: str | None,
    inputs: Sequence[str | Path],
) -> dict:
    suffix_of(output, SUFFIXES)
    grids = (fixed or next((s.grid for s in steps if isinstance(s, Field)), None), moving)
    start, end = grids if direction == "fixed_to_moving" else grids[::-1]
    marks = read_landmark_file(input, start, points_frame)
    mapped = map_points(steps, marks.points_ras)
    if direction == "moving_to_fixed":
        mapped = invert_points(steps, marks.points_ras)
    if marks.frame == "voxel" and end is None:
        raise InputError("Landmarks that are voxel indices need the grid they arrive in; name the image with --moving.")
    with whole_file(output, inputs) as path:
        write_landmark_file(path, Landmarks(mapped, marks.labels, marks.frame), end)
    return {"output": str(output), "points": len(mapped), "direction": direction}
