# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Masks kept on disk, by the content of the image and everything that determines its masks."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from ..common.cache import DiskCache
from ..common.errors import InputError
from ..common.fingerprint import fingerprint
from ..data.reader import Volume
from .source import Masks, MaskSource

logger = logging.getLogger(__name__)


def mask_key(source: MaskSource, volume: Volume, names: tuple[str, ...], modality: str) -> str:
    """Hash of everything that determines the masks: image and grid, source, weights and settings, names."""
    affine = volume.geometry.affine.round(6)
    return fingerprint(volume.array, affine, source.identity(volume), list(names), modality)


class CachedSource(MaskSource):
    """A source with a cache in the folder ``cache_dir``, whose files can be deleted at any time."""

    def __init__(self, source: MaskSource, cache_dir: str | Path) -> None:
        super().__init__()
        self.source, self.cache = source, DiskCache(cache_dir, suffix=".masks")
        self.name, self.offered, self.any_name = source.name, source.offered, source.any_name
        try:
            Path(cache_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The cache {cache_dir} cannot be made ({error.strerror}); give another one.") from error

    def identity(self, volume: Volume) -> str:
        return self.source.identity(volume)

    def segment(self, volume: Volume, names: tuple[str, ...], modality: str, probabilities: bool) -> Masks:
        """See :class:`MaskSource`. Probabilities are too large to keep and are always computed."""
        if probabilities:
            return self.source(volume, names, modality, probabilities)
        key = mask_key(self.source, volume, names, modality)
        kept = self.cache.read(key)
        if isinstance(kept, torch.Tensor) and kept.shape == volume.geometry.shape and kept.dtype == torch.uint8:
            return Masks(kept.numpy(), names, volume.geometry)
        masks = self.source(volume, names, modality)
        self.cache.write(key, torch.from_numpy(np.ascontiguousarray(masks.labels)))
        return masks
