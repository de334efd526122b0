# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The names of all files of a result, and a check that none of them overwrites an input."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..common.errors import InputError
from ..correspondence.region_pairs import RECORD

_MASKS = [f"{role}_{what}" for role in ("moving", "fixed") for what in ("rois", "regions")]
# The files behind each name of the option "keep".
OUTPUTS = {
    "rois": tuple(name + kind for name in _MASKS for kind in (".seg.nrrd", ".nii.gz", ".png")),
    "ddf": ("ddf.nii.gz",),
    "inverse_ddf": ("inverse_ddf.nii.gz",),
    "moved": ("moved.nii.gz", "moved.png"),
    "moved_label": ("moved_label.nii.gz",),
    "moved_landmarks": ("moved_landmarks.csv",),
    "overview": ("overview.png",),
    "report": ("report.html",),
}
FILES = frozenset(name for names in OUTPUTS.values() for name in names)


def check_inputs(folder: Path, inputs: Iterable[str | Path | None]) -> None:
    """Raises :class:`InputError` if a result in ``folder`` would overwrite an input or lie among the files of one."""
    outputs = [folder / name for name in (*FILES, RECORD)]
    for name in inputs:
        if name is None or not os.path.exists(name):
            continue
        if os.path.isdir(name):
            if folder.exists() and os.path.samefile(name, folder):
                raise InputError(f"{folder} is an input as well as the output folder; give another --output_dir.")
            continue
        for output in outputs:
            if output.exists() and os.path.samefile(name, output):
                raise InputError(f"The input {name} would be overwritten by the result; give another --output_dir.")
