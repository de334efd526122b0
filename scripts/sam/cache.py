# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Results of a SAM kept on disk: an image seen before is neither segmented nor encoded again."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from ..common.cache import DiskCache
from ..common.fingerprint import fingerprint, model_hash, tensor_hash
from .asked import Window
from .boxes import BoxEverything
from .everything import EverythingMode, encode
from .slice_masks import SliceMasks

SUFFIX, EMBEDDING_SUFFIX = ".masks.pt", ".embedding.pt"


class CachedEverything:
    """Everything mode with a bounded store of embeddings and masks on disk.

    The key is a hash of the slices as the model gets them, the weights, the settings of everything mode, the precision,
    the kind of device and the version of PyTorch, so a hit is bitwise identical to a computed result. Later steps
    (filter, linking, matching, dense field) are not part of the key and may change between runs.

    Args:
        everything: finds the masks.
        folder: keeps the entries; None keeps nothing.
        max_gb: largest size of the folder in 1e9 bytes; the longest unused entries are deleted first. 0 keeps nothing.
    """

    def __init__(
        self, everything: EverythingMode | BoxEverything, folder: str | Path | None = None, max_gb: float = 4.0
    ) -> None:
        self.everything = everything
        # Private, because the place of the entries does not affect a result.
        self._store = DiskCache(folder, max_gb, SUFFIX)
        self._key = SliceKey()
        self._counts = {"computed": 0, "reused": 0}

    @property
    def slices_per_batch(self) -> int:
        return self.everything.slices_per_batch

    @property
    def counts(self) -> dict[str, int]:
        """Slices computed and slices found in the store so far."""
        return dict(self._counts)

    def __call__(self, sam: Sam, slices: Tensor, window: Window | None = None) -> list[SliceMasks]:
        """Finds the masks of every slice (N, 3, H, W) in 0..255, see :class:`EverythingMode`."""
        key = self._key(sam, slices, self.everything, window) if self._store.folder else ""
        found = self._store.read(key, slices.device)
        self._counts["computed" if found is None else "reused"] += len(slices)
        if found is not None:
            return [SliceMasks(**values) for values in found]
        found = self.everything(sam, slices, window)
        self._store.write(key, [_plain(masks) for masks in found])
        return found


class CachedEncoder:
    """:func:`scripts.sam.everything.encode` with a bounded store of embeddings on disk.

    A second click in the same images does not encode them again. A hit is bitwise identical.

    Args:
        folder: where embeddings are kept; None keeps nothing.
        max_gb: see :class:`CachedEverything`.
    """

    def __init__(self, folder: str | Path | None = None, max_gb: float = 4.0) -> None:
        self._store, self._key = DiskCache(folder, max_gb, EMBEDDING_SUFFIX), SliceKey()

    def __call__(self, sam: Sam, slices: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embeddings (N, C, e, e) of slices (N, 3, H, W) in 0..255, and the size the slices were scaled to."""
        key = self._key(sam, slices) if self._store.folder else ""
        found = self._store.read(key, sam.device)
        if found is None:
            found = encode(sam, slices)
            self._store.write(key, (found[0].cpu().clone(), found[1]))
        return found


class SliceKey:
    """Hash of everything that determines what a model finds in slices; the hash of the last model is kept."""

    def __init__(self) -> None:
        self._model: tuple[Sam, str] | None = None

    def __call__(self, sam: Sam, slices: Tensor, *settings: Any) -> str:
        """The key of slices (N, 3, H, W) for a model and further settings."""
        if self._model is None or self._model[0] is not sam:
            self._model = (sam, model_hash(sam))
        computed = self._model[1], str(getattr(sam, "encoder_dtype", torch.float32)), sam.device.type
        return fingerprint(*computed, *settings, tensor_hash(slices), str(torch.__version__))


def _plain(masks: SliceMasks) -> dict:
    """The fields of a slice on the CPU, cloned because torch.save writes the whole storage of a view."""
    values = {f.name: getattr(masks, f.name) for f in fields(masks)}
    return {k: v.detach().cpu().clone() if isinstance(v, Tensor) else v for k, v in values.items()}
