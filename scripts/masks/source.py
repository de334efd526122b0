# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The protocol of everything that makes masks by anatomical name."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.errors import InputError
from ..data.intensity import guess_window
from ..data.reader import Volume
from ..spatial.geometry import Geometry

logger = logging.getLogger(__name__)

MODALITIES = ("auto", "ct", "mr", "us", "pet")


@dataclass(frozen=True, eq=False)
class Masks:
    """Structures of one image.

    Attributes:
        labels: (*geometry.shape) uint8; the i-th name has the value i + 1, 0 is none of them.
        names: in the order in which they were asked for, in the words of the source.
        geometry: native grid of the image.
        probabilities: (N, *geometry.shape) float16 in [0, 1], one a name, where they were asked for and are known.
    """

    labels: NDArray
    names: tuple[str, ...]
    geometry: Geometry
    probabilities: Tensor | None = None


@runtime_checkable
class MaskSource(Protocol):
    """Makes masks by anatomical name. All sources are ``nn.Module``s, so that a config can place them on a device.

    Attributes:
        name: as in the option ``source``.
        identity: says what makes the masks (weights, settings): equal identities give equal masks.
        offered: names that the source knows; synonyms of them are understood.
    """

    name: str
    identity: str
    offered: tuple[str, ...]

    def __call__(
        self, volume: Volume, names: Sequence[str] | str, modality: str = "auto", probabilities: bool = False
    ) -> Masks:
        """Segments an image.

        Args:
            volume: as :func:`scripts.data.reader.read_volume` gives it.
            names: structures, or one string with commas.
            modality: one of MODALITIES; "auto" guesses from the intensities.
            probabilities: also return probabilities.

        Raises:
            InputError: unknown name, or an image that this source cannot use.
        """
        ...


def modality_of(volume: Volume, modality: str = "auto") -> str:
    """The modality of an image: as given, or guessed from its intensities ("ct" or "mr").

    Raises:
        InputError: an unknown modality.
    """
    if modality not in MODALITIES:
        raise InputError(f"modality must be one of {', '.join(MODALITIES)}, got {modality!r}.")
    if modality != "auto":
        return modality
    return "ct" if guess_window(torch.from_numpy(volume.array.astype(np.float32))) == "ct" else "mr"


def warn_modality(source: str, trained: str, volume: Volume, modality: str) -> None:
    """Warns when a source was trained on another kind of image."""
    given = modality_of(volume, modality)
    if given != trained:
        how = "looks like" if modality == "auto" else "is"
        logger.warning(
            "%s %s %s, and the source %s was trained on %s only: its masks will be wrong (give --modality %s if the "
            "image is one).",
            volume.path, how, given.upper(), source, trained.upper(), trained,
        )  # fmt: skip


def paint_labels(shape: Sequence[int], binary: Sequence[NDArray]) -> NDArray:
    """Label map of masks in order; where two overlap, the later one stays on top.

    Args:
        shape: of the result.
        binary: boolean arrays of that shape.
    """
    labels = np.zeros(tuple(shape), np.uint8)
    for number, mask in enumerate(binary, start=1):
        labels[mask] = number
    return labels


def check_number(names: Sequence[str]) -> None:
    """Raises InputError for more names than a uint8 label map can hold."""
    if len(names) > 255:
        raise InputError(f"At most 255 structures fit in one label map, got {len(names)}.")


def digest(*parts: object) -> str:
    """Short content hash of arrays, bytes and text."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype}{part.shape}".encode())
            part = np.ascontiguousarray(part).data.cast("B") if part.size else b""
        elif not isinstance(part, bytes):
            part = repr(part).encode()
        sha.update(part)
        sha.update(b"|")
    return sha.hexdigest()[:24]
