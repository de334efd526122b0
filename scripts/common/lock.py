# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""One process at a time writes into an output folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

NAME = ".lock"


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Holds the lock of a folder; the system frees it when the process ends, however it ends.

    Raises:
        InputError: another process holds it, or the folder cannot be written.
    """
    path = Path(folder) / NAME
    descriptor = _acquire(path)
    with contextlib.suppress(OSError):  # on a full disk the lock still holds, only nobody can read whose it is
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise InputError(
                f"Nothing can be written to {path.parent} ({error.strerror or error}); give another --output_dir."
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise InputError(
                f"{path.parent} is in use by {holder}; wait until it has finished, or give another --output_dir."
            ) from error
        # Who held the lock deletes the file before it lets go: a lock on a deleted file counts for nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        os.close(descriptor)
