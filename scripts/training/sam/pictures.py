# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Cuts a user's images into pictures, windowed and oriented as a Segment Anything model sees them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ...common.errors import InputError
from ...common.fingerprint import fingerprint
from ...correspondence.slicing import plan_slices
from ...data.images import SUFFIXES, image_items
from ...data.intensity import apply_window
from ...data.reader import check_intensities, read_volume
from ...data.splits import evenly

logger = logging.getLogger(__name__)

DARK, LEAST_BRIGHT = 8, 0.05  # a slice with a smaller share of pixels above DARK shows next to nothing


def cut_slices(
    images: str | Sequence[str] | None,
    folder: str | Path,
    window: str = "auto",
    axis: int | str = "auto",
    most: int = 32,
    progress: bool = True,
) -> list[list[str]]:
    """Writes slices of every image as PNG files, reusing earlier ones; returns one list of files per image.

    Args:
        images: a folder of images, one image, a pattern, or a list, see :func:`scripts.data.images.image_items`.
        folder: gets the pictures, one folder per image, named by file, date and settings.
        window: see :func:`scripts.data.intensity.apply_window`.
        axis: 0, 1, 2 or "auto", see :func:`scripts.correspondence.slicing.plan_slices`.
        most: slices per image, evenly spaced.
        progress: shows a progress bar.

    Raises:
        InputError: no image, one that cannot be used, or no slice that shows anything.
    """
    if most < 1:
        raise InputError(f"slices_per_image must be at least 1, got {most}.")
    found = []
    for item in tqdm(image_items(_in_folder(images)), desc="slices", unit="image", disable=not progress):
        path = Path(item["path"])
        if not path.exists():
            raise InputError(f"{path} does not exist; give the path of an image file or of a DICOM folder.")
        state = path.stat()
        key = fingerprint(str(path.resolve()), state.st_mtime_ns, state.st_size, window, axis, most)
        target = Path(folder) / f"{item['case']}_{key[:12]}"
        if not target.is_dir():
            _cut(path, target, window, axis, most)
        found.append(sorted(str(p) for p in target.glob("*.png")))
    found = [pictures for pictures in found if pictures]
    if not found:
        raise InputError(f"No slice of {images!r} shows anything in the window {window!r}; try another --window.")
    return found


def _in_folder(images: str | Sequence[str] | None) -> str | Sequence[str] | None:
    """The image files in a folder; anything else, e.g. a folder with a DICOM series, is returned unchanged."""
    if not isinstance(images, str) or not Path(images).is_dir():
        return images
    files = sorted(str(p) for p in Path(images).rglob("*") if p.name.lower().endswith(SUFFIXES))
    return [f for f in files if not f.lower().endswith(".hdr")] or images


def _cut(path: Path, target: Path, window: str, axis: int | str, most: int) -> None:
    """Writes the slices of one image, all or none."""
    volume = read_volume(path)
    try:
        shown = apply_window(torch.from_numpy(check_intensities(volume)), window)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    stack = plan_slices(volume.geometry, axis).cut(torch.as_tensor(shown)).round().to(torch.uint8)
    bright = (stack > DARK).flatten(1).float().mean(dim=1) >= LEAST_BRIGHT
    numbers = bright.nonzero()[:, 0].tolist()
    part = target.with_name(target.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    for number in evenly(numbers, most):
        picture = np.ascontiguousarray(torch.as_tensor(stack[number]).permute(1, 2, 0).numpy())
        Image.fromarray(picture).save(part / f"{number:04d}.png")
    part.rename(target)
