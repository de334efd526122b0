# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Lists of images, each with a unique name."""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.transforms import Transform

from ..common.errors import InputError
from ..common.files import read_text, there
from ..spatial.files import MAX_GB, size_limit
from .reader import read_volume

SUFFIXES = (".gz", ".nii", ".hdr", ".img", ".nrrd", ".mha", ".mhd", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def stem_of(path: str | Path) -> str:
    """File name without its suffix, also a double one such as .nii.gz; the name of a DICOM folder unchanged."""
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name


def image_items(images: str | Sequence[str] | None) -> list[dict[str, str]]:
    """The images to work on, as dicts with "path", and "case", a name that is unique in the list.

    Args:
        images: one image (a file or a DICOM folder), a list of them, a pattern such as "data/*.nii.gz", or a file with
            one path per line (.txt) or a JSON list (.json); paths in a file are relative to it.

    Raises:
        InputError: no image is named, none matches, the list cannot be read, or an image is named twice.
    """
    paths = _paths(images)
    if not paths:
        raise InputError(f"No image was found for {images!r}; give an image, a pattern, or a list of images.")
    names = [stem_of(p) for p in paths]
    depth = 1
    while len(set(names)) < len(names) and depth < 20:
        depth += 1
        # Without the root of the file system, which would make the name an absolute path.
        parts = [[*Path(p).absolute().parts[1:-1]][1 - depth :] for p in paths]
        again = {name for name, count in Counter(names).items() if count > 1}
        names = ["_".join([*w, stem_of(p)]) if n in again else n for n, p, w in zip(names, paths, parts)]
    if len(set(names)) < len(names):
        times = Counter(names)
        twice = next(path for path, name in zip(paths, names) if times[name] > 1)
        raise InputError(f"{twice} appears twice in the list; name each image once.")
    return [{"path": path, "case": name} for path, name in zip(paths, names)]


def _paths(images: str | Sequence[str] | None) -> list[str]:
    if images is None:
        return []
    if not isinstance(images, str):
        return [str(p) for p in images]
    path = Path(images)
    if path.suffix.lower() not in (".txt", ".json"):
        return [images] if there(path) or not glob.has_magic(images) else sorted(glob.glob(images, recursive=True))
    text = read_text(path, "a list of images")
    try:
        entries = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (ValueError, RecursionError) as error:
        raise InputError(f"The list of images {images} cannot be read ({error}).") from error
    if not isinstance(entries, list) or not all(isinstance(e, str) for e in entries):
        raise InputError(f"{images} is not a list of paths; give a JSON list, or a text file with one path per line.")
    return [str(path.parent / e.strip()) for e in entries if e.strip()]


@dataclass(eq=False)
class LoadVolume(Transform):
    """Reads the image at "path". Errors are recorded instead of raised, so that a list continues.

    ``header`` and ``frame`` are those of :func:`scripts.data.reader.read_volume`, ``max_image_gb`` that of
    :func:`scripts.spatial.files.size_limit`. Adds "volume", a :class:`scripts.data.reader.Volume`, or "error", an
    :class:`InputError`.
    """

    header: str = "auto"
    frame: int | None = None
    max_image_gb: float = MAX_GB

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if data.get("done"):
            return dict(data)
        try:
            with size_limit(self.max_image_gb):
                return {**data, "volume": read_volume(data["path"], frame=self.frame, header=self.header)}
        except InputError as error:
            return {**data, "error": error}
