# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Everything mode that remembers: an image seen before is read from disk instead of being segmented again."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from ..common.cache import DiskCache
from ..common.fingerprint import fingerprint, model_hash, tensor_hash
from .boxes import BoxEverything
from .everything import EverythingMode
from .slice_masks import SliceMasks

SUFFIX = ".masks.pt"


class CachedEverything:
    """Everything mode with a bounded store of embeddings and masks on disk.

    The key is a hash of the slices as the model gets them, the weights, the settings of everything mode, the precision,
    the kind of device and the version of PyTorch, so a hit is bitwise identical to a computed result. Whatever comes
    after (filter, linking, matching, dense field) is not part of the key and may change between runs.

    Args:
        everything: finds the masks.
        folder: keeps the entries; None keeps nothing.
        max_gb: largest size of the folder in 1e9 bytes; the longest unused entries are deleted first. 0 keeps nothing.
    """

    def __init__(
        self, everything: EverythingMode | BoxEverything, folder: str | Path | None = None, max_gb: float = 4.0
    ) -> None:
        self.everything = everything
        # Private: where entries are kept is not a setting that decides a result.
        self._store = DiskCache(folder, max_gb, SUFFIX)
        self._model: tuple[Sam, str] | None = None
        self._counts = {"computed": 0, "reused": 0}

    @property
    def slices_per_batch(self) -> int:
        return self.everything.slices_per_batch

    @property
    def counts(self) -> dict[str, int]:
        """Slices computed and slices found in the store so far."""
        return dict(self._counts)

    def __call__(self, sam: Sam, slices: Tensor) -> list[SliceMasks]:
        """Finds the masks of every slice (N, 3, H, W) in 0..255, see :class:`EverythingMode`."""
        key = self._key(sam, slices) if self._store.folder else ""
        found = self._store.read(key, slices.device)
        self._counts["computed" if found is None else "reused"] += len(slices)
        if found is not None:
            return [SliceMasks(**values) for values in found]
        found = self.everything(sam, slices)
        self._store.write(key, [_plain(masks) for masks in found])
        return found

    def _key(self, sam: Sam, slices: Tensor) -> str:
        if self._model is None or self._model[0] is not sam:
            self._model = (sam, model_hash(sam))
        computed = self._model[1], str(getattr(sam, "encoder_dtype", torch.float32)), slices.device.type
        return fingerprint(*computed, self.everything, tensor_hash(slices), str(torch.__version__))


def _plain(masks: SliceMasks) -> dict:
    """The fields of a slice, on the CPU; clones, because a view is written with all that it is a view of."""
    values = {f.name: getattr(masks, f.name) for f in fields(masks)}
    return {k: v.detach().cpu().clone() if isinstance(v, Tensor) else v for k, v in values.items()}
