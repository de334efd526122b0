# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The disk cache for expensive results: bounded, shared by processes, and safe against damaged files."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from .files import BESIDE, sweep
from .fingerprint import file_sha256

logger = logging.getLogger(__name__)


class DiskCache:
    """Values by key, one file each, ``KEY.SHA256SUFFIX``; the name holds the checksum of the content.

    A damaged entry counts as absent and is deleted. When the folder grows too large, the least recently used entries
    are deleted first. A disk that is full or read-only turns the cache off with one warning.

    Args:
        folder: where the entries are kept, made if missing; None keeps nothing.
        max_gb: largest size of all entries in 1e9 bytes; 0 keeps nothing.
        suffix: of the entries. Only files with this suffix are ever deleted.
    """

    def __init__(self, folder: str | Path | None, max_gb: float = 4.0, suffix: str = ".cache") -> None:
        self.folder = Path(folder) if folder and max_gb > 0 else None
        self.max_bytes, self.suffix = max_gb * 1e9, suffix

    def read(self, key: str, device: torch.device | str = "cpu") -> Any | None:
        """The value of a hexadecimal key, its tensors on a device; None if there is none."""
        for path in sorted(self.folder.glob(f"{key}.*{self.suffix}")) if self.folder else ():
            try:
                if f"{key}.{file_sha256(path)}{self.suffix}" == path.name:
                    value = torch.load(path, map_location=device, weights_only=True)
                    with contextlib.suppress(OSError):
                        os.utime(path)
                    return value
                logger.warning("%s is damaged and will be recomputed", path)
                path.unlink(missing_ok=True)
            except FileNotFoundError:  # another process has just deleted it
                continue
            except Exception as error:  # written by another version; the unpickler raises nearly anything
                logger.info("%s cannot be read (%s) and will be recomputed", path, type(error).__name__)
        return None

    def write(self, key: str, value: Any) -> None:
        """Keeps a value under a key: tensors, numbers, text, and lists and dicts of these."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=BESIDE, dir=self.folder, ignore_cleanup_errors=True) as own:
                part = Path(own) / key
                torch.save(value, part)
                part.replace(self.folder / f"{key}.{file_sha256(part)}{self.suffix}")
            self._trim()
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            logger.warning("the cache %s cannot be written (%s); continuing without it", self.folder, error)
            self.folder = None

    def _trim(self) -> None:
        """Deletes the least recently used entries until the rest fits; other processes may do so at the same time."""
        sweep(self.folder)
        files = []
        for path in self.folder.glob(f"*{self.suffix}"):
            with contextlib.suppress(FileNotFoundError):
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size
