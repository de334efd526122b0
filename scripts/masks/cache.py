# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Masks made once: kept on disk under the hash of image, source and names."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from torch import nn

from ..common.errors import InputError
from ..data.reader import Volume
from .source import Masks, MaskSource, digest

logger = logging.getLogger(__name__)


class CachedSource(nn.Module):
    """Puts a cache in front of a source; itself a :class:`scripts.masks.source.MaskSource`.

    Args:
        source: makes what is not there yet.
        cache_dir: folder of the cache; made if missing. Files may be deleted at any time.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, source: MaskSource, cache_dir: str | Path) -> None:
        super().__init__()
        self.source, self.cache_dir = source, Path(cache_dir)
        self.name, self.identity, self.offered = source.name, source.identity, source.offered
        try:
            self.cache_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The cache {cache_dir} cannot be made ({error.strerror}); give another one.") from error

    def path_of(self, volume: Volume, names: Sequence[str] | str, modality: str = "auto") -> Path:
        """Where the masks of an image are kept."""
        own = getattr(self.source, "identity_for", None)
        identity = self.identity if own is None else own(volume)
        words = names if isinstance(names, str) else tuple(names)
        key = digest(volume.array, volume.geometry.affine.round(6), identity, words, modality)
        return self.cache_dir / f"{key}.npz"

    def forward(
        self, volume: Volume, names: Sequence[str] | str, modality: str = "auto", probabilities: bool = False
    ) -> Masks:
        """See :class:`scripts.masks.source.MaskSource`; probabilities are too large to keep and are always made."""
        if probabilities:
            return self.source(volume, names, modality, probabilities)
        path = self.path_of(volume, names, modality)
        if path.exists():
            try:
                with np.load(path, allow_pickle=False) as kept:
                    return Masks(kept["labels"], tuple(kept["names"].tolist()), volume.geometry)
            except (OSError, ValueError, KeyError, BadZipFile, EOFError):
                logger.warning("%s is damaged and is made again", path)
        masks = self.source(volume, names, modality)
        # A name of its own for every process, so that two that make the same masks do not write into one file.
        handle, part = tempfile.mkstemp(suffix=".part", dir=self.cache_dir)
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez_compressed(stream, labels=masks.labels, names=np.asarray(masks.names))
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        return masks
