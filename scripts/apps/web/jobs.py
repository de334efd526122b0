# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The jobs of the worker. Each runs in the folder of its session and names files relative to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.errors import InputError
from ...data.reader import read_volume
from ...data.sample import phantom_folder
from ...verbs.correspond import correspond
from ...verbs.register import register
from .slices import Shown, show
from .uploads import unpack_series

ROLES = ("moving", "fixed")
INPUTS, RESULTS = Path("inputs"), Path("results")
Images = dict[str, str | int]  # paths and time frames by option of the command register
Loaded = tuple[Images, dict[str, Shown]]


def load(role: str, path: str, frame: str) -> Loaded:
    """Reads an upload: an image, or a zip with the DICOM series of one image or of both.

    Args:
        role: "moving" or "fixed"; of two series in a zip the first is moving.
        path: of the upload.
        frame: time frame of a 4-D image, from 0, or empty.

    Raises:
        InputError: it cannot be used.
    """
    if frame and not frame.isdecimal():
        raise InputError(f"The time frame must be a whole number from 0, got {frame!r}.")
    file, found, number = Path(path), {role: Path(path)}, int(frame) if frame else None
    if file.suffix.lower() == ".zip":
        series = unpack_series(file, file.with_name("series"))
        if len(series) > 2:
            raise InputError(f"{file.name} contains {len(series)} DICOM series; zip one or two.")
        found = dict(zip(ROLES, series)) if len(series) == 2 else {role: series[0]}
    shown = {r: show(p, _beside(p, r), file.name, number) for r, p in found.items()}
    frames = {} if number is None else {f"{r}_frame": number for r in found}
    return {r: p.as_posix() for r, p in found.items()} | frames, shown


def phantom() -> Loaded:
    """Makes the built-in phantom pair, with its labels and landmarks."""
    folder = phantom_folder(INPUTS, "cardiac", 0)
    files = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith("true")]
    shown = {r: show(folder / f"{r}.nii.gz", _beside(folder / r, r), f"phantom, {r}") for r in ROLES}
    return {p.name.split(".")[0]: p.as_posix() for p in files}, shown


def run_register(images: Images, options: Mapping[str, Any], shown: Mapping[str, Shown]) -> dict[str, Any]:
    """Registers the pair.

    Returns:
        the record of the registration.

    Raises:
        InputError: see :func:`scripts.verbs.register.register`.
    """
    _check_both(images)
    record = register(output_dir=RESULTS / "registration", **images, **options)
    _regions(RESULTS / "registration", shown)
    return record


def run_correspond(
    images: Images, options: Mapping[str, Any], shown: Mapping[str, Shown], role: str, point: list[float]
) -> dict[str, Any]:
    """Finds the region at a point (RAS mm) of one image in both images.

    Returns:
        the record of the correspondence.

    Raises:
        InputError: see :func:`scripts.verbs.correspond.correspond`.
    """
    _check_both(images)
    pair = {key: value for key, value in images.items() if key in (*ROLES, "moving_frame", "fixed_frame")}
    folder = RESULTS / "correspondence"
    record = correspond(
        **pair, output_dir=folder, prompt_image=role, points=[point], cache_dir="kept", overview=False, **options
    )
    _regions(folder, shown)
    return record


def _beside(path: Path, role: str) -> Path:
    """Where the shown form of an image is kept: beside its file, so that both are removed together."""
    return path.parent.absolute() / f"shown_{role}"


def _check_both(images: Images) -> None:
    for role in ROLES:
        if role not in images:
            raise InputError(f"Load a {role} image first.")


def _regions(folder: Path, shown: Mapping[str, Shown]) -> None:
    """Shows the paired regions of a result folder."""
    for role, image in shown.items():
        path = folder / f"{role}_rois.nii.gz"
        image.show_regions(read_volume(path).array[0] if path.exists() else None)
