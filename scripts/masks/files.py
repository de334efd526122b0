# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The source "files": existing label maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..common.errors import InputError
from ..common.fingerprint import file_sha256, fingerprint
from ..data.images import stem_of
from ..data.reader import Volume, read_volume
from ..spatial.files import MAX_GB, size_limit
from ..spatial.geometry import extent_text, overlap, resample, same_grid
from .grid import as_volume
from .names import canonical
from .source import Masks, MaskSource, paint_labels


def read_labels(path: str | Path, volume: Volume) -> NDArray:
    """A label map on the grid of an image, float32, resampled by nearest voxel if it is on another grid.

    Raises:
        InputError: unreadable, of other dimensions, or elsewhere in space.
    """
    with size_limit(max(MAX_GB, volume.array.size * 4e-9)):  # a label map can be as large as its image
        label = read_volume(path, label=True)
    if label.array.shape[0] != 1 or label.geometry.ndim != volume.geometry.ndim:
        raise InputError(
            f"{path} has the shape {label.array.shape}, and its image {volume.path} has {volume.array.shape}; a label "
            "map needs one channel and the dimensions of its image."
        )
    if same_grid(label.geometry, volume.geometry):
        return label.array[0].astype(np.float32)
    if not overlap(label.geometry, volume.geometry, np.eye(4)):
        places = f"covers {extent_text(label.geometry)} and its image {extent_text(volume.geometry)}"
        raise InputError(f"{path} {places}; give the label map of this image.")
    values, own = as_volume(torch.from_numpy(label.array.astype(np.float32)), label.geometry)
    _, native = as_volume(torch.empty(0, *volume.geometry.shape), volume.geometry)
    return resample(values, own, native, mode="nearest", fill=0.0)[0].reshape(volume.geometry.shape).numpy()


class FilesSource(MaskSource):
    """Masks from label maps on disk.

    Args:
        pattern: path of the label map of an image, where {folder} and {stem} are the folder and the name of the image,
            e.g. "{folder}/{stem}_gt.nii.gz".
        values: value of each structure in the label maps.

    Raises:
        InputError: no values.
    """

    name = "files"

    def __init__(self, pattern: str, values: Mapping[str, int] | None = None) -> None:
        super().__init__()
        if not values or not isinstance(values, Mapping):
            raise InputError("The source files needs the values of structures, e.g. --values \"{'liver': 6}\".")
        self.pattern = pattern
        self.values = {canonical(name): int(value) for name, value in values.items()}
        self.offered = tuple(self.values)

    def path_of(self, image: str | Path) -> Path:
        """Label map of an image; :class:`InputError` if the pattern contains more than the folder and the stem."""
        try:
            return Path(self.pattern.format(folder=Path(image).parent, stem=stem_of(image)))
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(f"The pattern {self.pattern!r} may contain only {{folder}} and {{stem}}.") from error

    def identity(self, volume: Volume) -> str:
        """See :class:`MaskSource`; includes the content of the label map."""
        path = self.path_of(volume.path)
        return fingerprint("files", self.values, file_sha256(path) if path.is_file() else str(path))

    def segment(self, volume: Volume, names: tuple[str, ...], modality: str, probabilities: bool) -> Masks:
        """See :class:`MaskSource`; files contain no probabilities."""
        labels = np.rint(read_labels(self.path_of(volume.path), volume))
        binary = [labels == self.values[name] for name in names]
        return Masks(paint_labels(volume.geometry.shape, binary), names, volume.geometry)
