# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The disk cache for expensive results: bounded, shared by processes, and safe against damaged files."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterable
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
        sweep(self.folder)
        for path in surplus(self.folder.glob(f"*{self.suffix}"), self.max_bytes):
            path.unlink(missing_ok=True)


def surplus(entries: Iterable[Path], max_bytes: float) -> list[Path]:
    """The least recently used files or folders, whose removal leaves at most ``max_bytes``, but always the newest.

    Other processes may delete entries at the same time.
    """
    found = []
    for path in entries:
        with contextlib.suppress(FileNotFoundError):
            files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
            found.append((path.stat().st_mtime_ns, sum(p.stat().st_size for p in files), path))
    found.sort()
    total, out = sum(size for _, size, _ in found), []
    for _, size, path in found[:-1]:
        if total <= max_bytes:
            break
        out.append(path)
        total -= size
    return out
