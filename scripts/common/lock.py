# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""One process at a time writes into an output folder."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import InputError

logger = logging.getLogger(__name__)

NAME = ".lock"
HOLDER = ".lock.holder"  # a separate file, because Windows does not let other processes read a locked file


@contextmanager
def locked(folder: str | Path, wait_s: float = 0.0) -> Iterator[None]:
    """Holds the lock of an existing folder; :class:`InputError` if another process still holds it after ``wait_s``.

    The system frees the lock when the process ends, even if it is killed.
    """
    folder = Path(folder)
    lock, holder = FileLock(folder / NAME, timeout=wait_s), folder / HOLDER
    try:
        if not folder.is_dir():
            raise FileNotFoundError("no such folder")
        lock.acquire()
    except Timeout as error:
        name = "another process"
        with contextlib.suppress(OSError):
            name = holder.read_text(encoding="utf-8") or name
        raise InputError(f"{folder} is in use by {name}; wait, or give another --output_dir.") from error
    except NotImplementedError:
        logger.warning("%s is on a file system without locks; make sure that only one process writes there", folder)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"Nothing can be written to {folder} ({reason}); give another --output_dir.") from error
    with contextlib.suppress(OSError):  # on a full disk the lock still holds, but its holder cannot be named
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    try:
        yield
    finally:
        # Deleted before the lock is freed, so that no file is deleted that another process has just locked.
        for path in (holder, folder / NAME):
            with contextlib.suppress(OSError):
                path.unlink()
        lock.release()
        if os.name == "nt":  # Windows refuses to delete a file while any process has it open
            with contextlib.suppress(OSError):
                (folder / NAME).unlink()
