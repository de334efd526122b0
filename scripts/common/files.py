# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Reads regular files only, and writes files that are either complete or absent."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

BESIDE = ".writing-"  # prefix of the folders in which files wait until they are complete
STALE_S = 24 * 3600
HEADERS, DATA = (".mhd", ".nhdr"), (".raw", ".zraw", ".raw.gz")  # images in two files: a header names its data file
HEADER_BYTES = 1 << 16
DATA_FILE = re.compile(rb"^\s*(?:ElementDataFile\s*=|data ?file:)\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)
TEXT_BYTES = 256 << 20  # largest text file that is read; 100,000 pairs take about 20 MB


def there(path: str | Path) -> bool:
    """Whether a path exists. Names that no file can have give False instead of an error."""
    try:
        return os.path.exists(path)
    except ValueError:
        return False


def existing(path: str | Path, what: str, *, folder: bool = False) -> Path:
    """The path of an input, checked before it is opened; ``~`` is the home folder.

    Args:
        path: of a file.
        what: what the file should be, for the message.
        folder: accepts a folder as well.

    Raises:
        InputError: it is missing or empty, or a device, pipe or socket, which might never end.
    """
    path = Path(path if there(path) else os.path.expanduser(path))
    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        reason = "does not exist" if not isinstance(error, PermissionError) else "cannot be read (permission denied)"
        raise InputError(f"{path} {reason}; give the path of {what}.") from error
    if folder and stat.S_ISDIR(state.st_mode):
        return path
    if not stat.S_ISREG(state.st_mode):
        kind = "a folder" if stat.S_ISDIR(state.st_mode) else "a device or a pipe"
        raise InputError(f"{path} is {kind}, not a file; give the path of {what}.")
    if not state.st_size:
        raise InputError(f"{path} is empty; give the path of {what}.")
    return path


def read_text(path: str | Path, what: str) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; messages call it ``what``."""
    path = existing(path, what)
    if path.stat().st_size > TEXT_BYTES:
        raise InputError(f"{path} is larger than {TEXT_BYTES >> 20} MB, too large for {what}.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as {what}; save it as UTF-8 text.") from error


@contextmanager
def whole_file(path: str | Path, inputs: Iterable[str | Path] = ()) -> Iterator[Path]:
    """A temporary path for a file that gets its final name only once it is complete and on the disk.

    A header (.mhd, .nhdr) and its data file change together: new data never take the name of old data, so the old
    header names the old data file until the new header replaces it.

    Args:
        path: the file to write; its folder is made if missing.
        inputs: files that are read and must not be replaced.

    Yields:
        A path with the same suffix in a temporary folder beside it.

    Raises:
        InputError: the output is one of the inputs, or cannot be written. An existing file is then unchanged.
    """
    path = Path(path)
    check_outputs([path], inputs)
    if there(path) and not path.is_file():  # a folder, or a device, which renaming would replace
        raise InputError(f"{path} exists and is not a file; give another output.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        folder = Path(tempfile.mkdtemp(prefix=BESIDE, dir=path.parent))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); give another output.") from error
    written, placed = folder / _free_name(path), []
    try:
        yield written
        data = [p for p in folder.iterdir() if p != written]
        old_data = _data_files(path)
        for part in (*data, written):
            _flush(part)
        for part in data:
            placed.append(part.replace(path.parent / part.name))
        written.replace(path)
    except OSError as error:
        for part in placed:
            part.unlink(missing_ok=True)
        raise InputError(f"Writing {path} failed ({error.strerror or error}); nothing was replaced.") from error
    else:
        for part in old_data:
            with contextlib.suppress(OSError):
                part.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_name(path: Path) -> str:
    """The name to write a file under: its own, or for a header one whose data file does not exist yet."""
    stem, numbers = path.stem, itertools.count(2)
    if path.suffix.lower() in HEADERS:
        while any(there(path.parent / f"{stem}{kind}") for kind in DATA):
            stem = f"{path.stem}-{next(numbers)}"
    return f"{stem}{path.suffix}"


def _data_files(path: Path) -> list[Path]:
    """The data files that a header names and that are named after it; none for other files."""
    if path.suffix.lower() not in HEADERS or not there(path):
        return []
    with path.open("rb") as stream:
        names = [os.fsdecode(name) for name in DATA_FILE.findall(stream.read(HEADER_BYTES))]
    own = re.compile(rf"{re.escape(path.stem)}(-\d+)?({'|'.join(map(re.escape, DATA))})")
    return [path.with_name(name) for name in names if own.fullmatch(name)]


def check_outputs(paths: Iterable[str | Path], inputs: Iterable[str | Path]) -> None:
    """Raises :class:`InputError` if an output would replace an input, even under another name of the same file."""
    read = [os.stat(name) for name in inputs if there(name)]
    for path in paths:
        if there(path) and any(os.path.samestat(os.stat(path), state) for state in read):
            raise InputError(f"{path} is an input as well as the output; give the output another name.")


def _flush(part: Path) -> None:
    """Flushes a file to the disk, which reveals a full disk; an empty file counts as a failed write."""
    if not part.stat().st_size:
        raise OSError(f"{part.name} is empty; the disk may be full")
    with contextlib.suppress(PermissionError), part.open("r+b") as stream:
        os.fsync(stream.fileno())


def remove(path: Path) -> None:
    """Deletes a file or a folder, or a link without its target."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Deletes the leftovers of processes that were killed more than a day ago."""
    for old in folder.glob(f"{BESIDE}*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE_S:
                shutil.rmtree(old, ignore_errors=True)
