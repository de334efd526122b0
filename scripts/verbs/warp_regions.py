# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``warp`` for segmentations whose regions overlap: every layer is moved, names and colours are kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import SimpleITK as sitk

from ..common.errors import InputError
from ..common.files import whole_file
from ..correspondence.moved_regions import move_regions
from ..data.segmentations import SUFFIX, read_segmentation, write_segmentation
from ..spatial.chain import Field
from ..spatial.files import quiet_itk
from ..spatial.geometry import Geometry
from ..spatial.transform_files import read_chain


def has_layers(path: str | Path) -> bool:
    """Whether a file is a segmentation with overlapping regions."""
    if not str(path).lower().endswith(SUFFIX) or not Path(path).is_file():
        return False
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError:  # the reader reports what is wrong with it
        return False
    return reader.GetNumberOfComponents() > 1


def warp_regions(
    input: str | Path,
    output: str | Path,
    transforms,
    fixed_grid: Geometry | None,
    moving_grid: Geometry | None,
    learn2reg: bool,
    inputs: Iterable[str | Path],
) -> dict:
    """Moves a segmentation with overlapping regions; the arguments are those of :func:`scripts.verbs.warp.warp`."""
    if not str(output).lower().endswith(SUFFIX):
        raise InputError(f"{input} contains overlapping regions, which only a {SUFFIX} file can hold; got {output}.")
    regions = read_segmentation(input)
    steps = read_chain(transforms, fixed_grid, moving_grid or regions.geometry, learn2reg=learn2reg)
    grid = fixed_grid or next((s.grid for s in steps if isinstance(s, Field)), None)
    if grid is None:
        raise InputError("An affine has no grid; name the fixed image with --reference.")
    moved, inside = move_regions(regions, grid, steps)
    if not inside:
        raise InputError(f"No part of {input} falls on the result's grid; check --reference and the transforms.")
    with whole_file(output, inputs) as path:
        write_segmentation(path, moved)
    return {"output": str(output), "inside_percent": round(100 * inside, 2)}
