# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Everything mode that remembers: an image that comes again is read from disk, not segmented again."""

from __future__ import annotations

import logging
import os
from dataclasses import fields
from pathlib import Path

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from ..common.fingerprint import fingerprint, model_hash, tensor_hash
from .everything import EverythingMode
from .slice_masks import SliceMasks

logger = logging.getLogger(__name__)

SUFFIX = ".masks.pt"  # of our own files, the only ones that are ever deleted


class CachedEverything:
    """Everything mode with a bounded store on disk of embeddings and masks.

    The key is a hash of the slices as the model gets them, the weights, the settings of everything mode, the kind of
    device and the version of PyTorch, so a hit is what would have been computed, bit by bit. What comes after (filter,
    linking, matching, dense field) is no part of the key and may change between runs.

    Args:
        everything: what finds the masks.
        folder: where they are kept; None keeps nothing.
        max_gb: largest size of the folder in 1e9 bytes; the longest unused files go first. 0 keeps nothing.
    """

    def __init__(self, everything: EverythingMode, folder: str | Path | None = None, max_gb: float = 4.0) -> None:
        self.everything = everything
        # Private: where things are kept is no setting that decides a result.
        self._folder = Path(folder) if folder and max_gb > 0 else None
        self._max_bytes = max_gb * 1e9
        self._model: tuple[Sam, str] | None = None
        self._counts = {"computed": 0, "reused": 0}

    @property
    def slices_per_batch(self) -> int:
        return self.everything.slices_per_batch

    @property
    def counts(self) -> dict[str, int]:
        """Slices that were computed and slices that were found in the store, so far."""
        return dict(self._counts)

    def __call__(self, sam: Sam, slices: Tensor) -> list[SliceMasks]:
        """Finds the masks of every slice (N, 3, H, W) in 0..255, see :class:`EverythingMode`."""
        path = None if self._folder is None else self._folder / f"{self._key(sam, slices)}{SUFFIX}"
        found = None if path is None else _read(path, slices.device)
        self._counts["computed" if found is None else "reused"] += len(slices)
        if found is None:
            found = self.everything(sam, slices)
            if path is not None:
                self._write(path, found)
        return found

    def _key(self, sam: Sam, slices: Tensor) -> str:
        if self._model is None or self._model[0] is not sam:
            self._model = (sam, model_hash(sam))
        return fingerprint(
            self._model[1], self.everything, tensor_hash(slices), slices.device.type, str(torch.__version__)
        )

    def _write(self, path: Path, found: list[SliceMasks]) -> None:
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save([_plain(masks) for masks in found], part)
            part.replace(path)
            self._trim(path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            logger.warning("the store of masks %s cannot be written (%s); going on without it", self._folder, error)
            part.unlink(missing_ok=True)
            self._folder = None

    def _trim(self, newest: Path) -> None:
        """Deletes the longest unused files until the folder fits; other processes may do so at the same time."""
        files = []
        for path in newest.parent.glob(f"*{SUFFIX}"):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            files.append((state.st_mtime_ns, state.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _plain(masks: SliceMasks) -> dict:
    """The fields of a slice, on the CPU; clones, because a view would be written with all it is a view of."""
    values = {f.name: getattr(masks, f.name) for f in fields(masks)}
    return {k: v.detach().cpu().clone() if isinstance(v, Tensor) else v for k, v in values.items()}


def _read(path: Path, device: torch.device) -> list[SliceMasks] | None:
    """Slices from a file; None when it is not there, or is not what was written."""
    try:
        found = torch.load(path, map_location=device, weights_only=True)
        os.utime(path)
        return [SliceMasks(**slice_fields) for slice_fields in found]
    except FileNotFoundError:
        return None
    except Exception:  # a damaged file makes the unpickler raise nearly anything
        logger.info("%s is damaged and is made again", path)
        return None
