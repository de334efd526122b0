# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``compose``: several transforms as one file, and one file in another format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..common.errors import InputError
from ..common.files import check_outputs, whole_file
from ..data.reader import read_volume
from ..spatial.chain import Field
from ..spatial.fields import DISPLACEMENT, VECTOR
from ..spatial.files import limited
from ..spatial.learn2reg import LAYOUTS
from ..spatial.transform_files import WRITABLE, read_chain, suffix_of, transform_paths, write_chain


@limited
def compose(
    transforms: str | Path | Sequence[str | Path],
    output: str | Path,
    reference: str | Path | None = None,
    moving: str | Path | None = None,
    intent: int = 1007,
    layout: str = "last",
    learn2reg: bool = False,
    max_image_gb: float = 4.0,
) -> dict:
    """Writes a chain of transforms as one transform, or converts a single one.

    Args:
        transforms: in the order in which a fixed point passes through them, see docs/fields.md.
        output: displacement field (.nii.gz, .nii, .nrrd, .mha), ITK transform (.h5, .tfm, .mat, .txt; affines stay
            affine) or Learn2Reg (.npz).
        reference: image whose grid the field gets; None takes the grid of the first field.
        moving: moving image, for Learn2Reg files between grids that differ.
        intent: of a NIfTI field: 1007 (LPS mm) or 1006 (RAS mm).
        layout: of an npz: "last" (X, Y, Z, 3) or "first" (3, X, Y, Z).
        learn2reg: reads NIfTI fields without an intent as Learn2Reg fields.
        max_image_gb: largest image or field in memory, in 1e9 bytes; a larger one is refused before it is read.

    Returns:
        "output" and the number of "transforms".

    Raises:
        InputError: the input cannot be used; one sentence says why.
    """
    if intent not in (VECTOR, DISPLACEMENT):
        raise InputError(f"intent must be {VECTOR} (LPS mm) or {DISPLACEMENT} (RAS mm), got {intent}.")
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}.")
    suffix_of(output, WRITABLE)
    inputs = [*transform_paths(transforms), *(p for p in (reference, moving) if p)]
    check_outputs([output], inputs)
    fixed_grid, moving_grid = (read_volume(p, frame=0).geometry if p else None for p in (reference, moving))
    steps = read_chain(transforms, fixed_grid, moving_grid, learn2reg=learn2reg)
    grid = fixed_grid or next((s.grid for s in steps if isinstance(s, Field)), None)
    with whole_file(output, inputs) as path:
        write_chain(path, steps, grid, moving_grid, intent=intent, layout=layout)
    return {"output": str(output), "transforms": len(steps)}
