# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``invert``: the inverse of a registration as a file, with the error that remains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..common.errors import InputError
from ..common.files import check_outputs, whole_file
from ..data.reader import read_volume
from ..spatial.chain import Field, Linear
from ..spatial.files import limited
from ..spatial.inversion import invert_chain
from ..spatial.transform_files import WRITABLE, read_chain, suffix_of, transform_paths, write_chain


@limited
def invert(
    transforms: str | Path | Sequence[str | Path],
    output: str | Path,
    moving: str | Path | None = None,
    reference: str | Path | None = None,
    learn2reg: bool = False,
    progress: bool = True,
    max_image_gb: float = 4.0,
) -> dict:
    """Writes the inverse of a chain of transforms as one file.

    Args:
        transforms: in the order in which a fixed point passes through them, see docs/fields.md.
        output: format by suffix, as for ``compose``; affines stay affine.
        moving: the moving image, whose grid the inverse gets; None takes the grid of the first field.
        reference: the fixed image, for transforms that have no grid.
        learn2reg: reads NIfTI fields without an intent as Learn2Reg fields.
        progress: shows a bar.
        max_image_gb: largest image or field in memory, in 1e9 bytes; a larger one is refused before it is read.

    Returns:
        "output"; for fields "residual", mm at the voxels of the inverse (there and back through inverse and field),
        and "residual_fixed", at the voxels of the field with the inverse read between its voxels: each with mean_mm,
        p95_mm, max_mm, points and outside_percent (voxels that leave the other grid; there the inverse is
        extrapolated).

    Raises:
        InputError: the input cannot be used; one sentence says why.
    """
    suffix_of(output, WRITABLE)
    inputs = [*transform_paths(transforms), *(p for p in (reference, moving) if p)]
    check_outputs([output], inputs)
    fixed_grid, moving_grid = (read_volume(p, frame=0).geometry if p else None for p in (reference, moving))
    steps = read_chain(transforms, fixed_grid, moving_grid, learn2reg=learn2reg)
    fields = [s for s in steps if isinstance(s, Field)]
    if not fields:
        inverse = [Linear(np.linalg.inv(s.matrix)) for s in reversed(steps)]
        with whole_file(output, inputs) as path:
            write_chain(path, inverse, moving_grid)
        return {"output": str(output)}
    fixed_grid = fixed_grid or fields[0].grid
    if moving_grid is not None and moving_grid.ndim != fixed_grid.ndim:
        raise InputError(f"{moving} is {moving_grid.ndim}-D and the field is {fixed_grid.ndim}-D.")
    field, there, around = invert_chain(steps, fixed_grid, moving_grid or fixed_grid, progress=progress)
    with whole_file(output, inputs) as path:
        write_chain(path, [field], field.grid, fixed_grid)
    return {"output": str(output), "residual": there, "residual_fixed": around}
