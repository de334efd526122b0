# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The interface of a source of masks, and the code that all sources share."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..common.errors import InputError
from ..data.intensity import guess_window
from ..data.reader import Volume
from ..spatial.geometry import Geometry
from .names import canonical, resolve, split_names

logger = logging.getLogger(__name__)

MODALITIES = ("auto", "ct", "mr", "us", "pet")


@dataclass(frozen=True, eq=False)
class Masks:
    """Structures of one image.

    Attributes:
        labels: (*geometry.shape) uint8; the i-th name has the value i + 1, the background 0.
        names: in the order of the request, as the source spells them.
        geometry: native grid of the image.
        probabilities: (N, *geometry.shape) float16 in [0, 1], one for each name, if requested and available.
    """

    labels: NDArray
    names: tuple[str, ...]
    geometry: Geometry
    probabilities: Tensor | None = None


class MaskSource(nn.Module, ABC):
    """Makes masks by anatomical name. A new source implements :meth:`segment`, and :meth:`identity` or ``_identity``.

    Attributes:
        name: as in the option ``source``.
        offered: names that the source accepts; it accepts their synonyms as well.
        modality: "ct" or "mr" if the source was trained on one of them only; another image gives a warning.
        any_name: whether it also accepts names that are not in ``offered``.
        _identity: what :meth:`identity` returns, if the same for all images.
    """

    name: str
    offered: tuple[str, ...]
    modality: str | None = None
    any_name: bool = False
    _identity: str

    def identity(self, volume: Volume) -> str:
        """Hash of everything that determines the masks of an image: weights, settings, the content of files."""
        return self._identity

    @abstractmethod
    def segment(self, volume: Volume, names: tuple[str, ...], modality: str, probabilities: bool) -> Masks:
        """The masks of names as the source spells them; arguments as for :meth:`forward`."""

    def resolve(self, names: Sequence[str] | str) -> tuple[str, ...]:
        """The names as the source spells them."""
        if self.any_name:
            wanted = tuple(dict.fromkeys(canonical(name) for name in split_names(names)))
        else:
            wanted = resolve(names, self.offered, self.name)
        if len(wanted) > 255:
            raise InputError(f"At most 255 structures fit in one label map, got {len(wanted)}.")
        return wanted

    def forward(
        self, volume: Volume, names: Sequence[str] | str, modality: str = "auto", probabilities: bool = False
    ) -> Masks:
        """Segments an image.

        Args:
            volume: from :func:`scripts.data.reader.read_volume`.
            names: structures, or one string with commas.
            modality: one of MODALITIES; "auto" guesses from the intensities.
            probabilities: also return probabilities.

        Raises:
            InputError: an unknown name, or an image that this source cannot use.
        """
        wanted = self.resolve(names)
        if self.modality is not None:
            warn_modality(self.name, self.modality, volume, modality)
        return self.segment(volume, wanted, modality, probabilities)


def modality_of(volume: Volume, modality: str = "auto") -> str:
    """The modality of an image: as given, or "ct" or "mr" guessed from its intensities."""
    if modality not in MODALITIES:
        raise InputError(f"modality must be one of {', '.join(MODALITIES)}, got {modality!r}.")
    if modality != "auto":
        return modality
    return "ct" if guess_window(torch.from_numpy(volume.array.astype(np.float32))) == "ct" else "mr"


def warn_modality(source: str, trained: str, volume: Volume, modality: str) -> None:
    """Warns if a source was trained on another kind of image."""
    given = modality_of(volume, modality)
    if given != trained:
        how = "looks like" if modality == "auto" else "is"
        logger.warning(
            "%s %s %s, but the source %s was trained on %s only, so its masks will be wrong (if the image is %s, give "
            "--modality %s).",
            volume.path, how, given.upper(), source, trained.upper(), trained.upper(), trained,
        )  # fmt: skip


def paint_labels(shape: Sequence[int], binary: Sequence[NDArray]) -> NDArray:
    """Label map of boolean masks in order; where two overlap, the later one wins."""
    labels = np.zeros(tuple(shape), np.uint8)
    for number, mask in enumerate(binary, start=1):
        labels[mask] = number
    return labels
