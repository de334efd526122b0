# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Results that are computed once and kept, outside the studies folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from ...common.cache import surplus
from ...common.fingerprint import file_sha256


class Kept:
    """A folder of results, each made once; the least recently used ones are removed when the folder grows too large.

    Args:
        folder: where to keep them; None takes a temporary folder that is removed when the server stops.
        max_gb: largest size of the folder in 1e9 bytes; the newest result always stays.
    """

    def __init__(self, folder: str | None = None, max_gb: float = 4.0) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="sam_registration_")
        self.folder = Path(folder or self._temporary.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.max_bytes = max_gb * 1e9
        self._lock = threading.Lock()  # a registration uses every core, so running one at a time is fastest

    def get(self, key: str, make: Callable[[Path], None]) -> Path:
        """The folder of a result.

        Args:
            key: of everything that decides the result.
            make: fills an empty folder; it may raise, and then nothing is kept.
        """
        path = self.folder / key
        with self._lock:
            if not path.is_dir():
                with tempfile.TemporaryDirectory(prefix=".making-", dir=self.folder) as part:
                    make(Path(part))
                    os.replace(part, path)
                    os.mkdir(part)  # for the context manager to remove
                for old in surplus((p for p in self.folder.iterdir() if p.name[0] != "."), self.max_bytes):
                    shutil.rmtree(old, ignore_errors=True)
            os.utime(path)
        return path


def content_hash(path: str | Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    path = Path(path)
    if path.is_file():
        return file_sha256(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    text = "\n".join(f"{p.relative_to(path).as_posix()} {content_hash(p)}" for p in files)
    return hashlib.sha256(text.encode()).hexdigest()
