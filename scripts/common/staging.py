# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A folder of results that changes atomically: at any moment either the old or the new result is complete.

New files are written into a hidden folder beside their destination. Renaming that folder to ``.committed`` is the
deciding step: before it the old result is untouched; after it the new result is complete in ``.committed`` and is put
in place by links, the record last. The next run finishes an interrupted replacement (:func:`recover`).
Readers find the complete result with :func:`complete_result`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import BESIDE, remove, sweep

OWN_PREFIX = f"{BESIDE}result-"  # written under the lock of the folder, so none is in use when another writer starts
COMMITTED = ".committed"
NAMES = ".names"  # file in COMMITTED: name of the record, and names of all files that such a result can contain


@contextmanager
def staged(folder: Path, record: str, known: Collection[str]) -> Iterator[Path]:
    """A temporary folder whose files replace the old result at once; an exception leaves the old result unchanged.

    The caller holds the lock of the folder.

    Args:
        folder: of the result; it exists. Files that belong to no result are left alone.
        record: name of the file that describes a result; a folder without it contains no result. The folder to write
            into, which the context yields, must contain it in the end.
        known: names of all files and folders that belong to a result; old ones that the new one lacks are deleted.
    """
    recover(folder)
    part = Path(tempfile.mkdtemp(prefix=OWN_PREFIX, dir=folder))
    try:
        yield part
        (part / NAMES).write_text(json.dumps([record, sorted(known)]), encoding="utf-8")
        part.chmod(0o755)  # mkdtemp makes it private
        part.rename(folder / COMMITTED)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    recover(folder)


def recover(folder: Path) -> None:
    """Finishes an interrupted replacement and deletes leftovers of killed processes."""
    committed = folder / COMMITTED
    record, known = _names(committed)
    if record is not None:
        names = [p.name for p in committed.iterdir() if p.name not in (record, NAMES)]
        if (folder / record).exists():
            for name in set(known) - {*names, record}:
                remove(folder / name)
            (folder / record).unlink()  # last, so that an interrupted replacement deletes the rest next time
        for name in [*names, record]:
            _place(committed / name, folder / name)
        # Without its record the copy no longer counts as a result.
        (committed / record).unlink()
    remove(committed)
    for left in folder.glob(f"{OWN_PREFIX}*"):
        with contextlib.suppress(OSError):
            remove(left)
    sweep(folder)


def _names(committed: Path) -> tuple[str | None, list[str]]:
    """The record of a committed result and the files that it can contain; None if there is no complete one."""
    if committed.is_symlink():
        return None, []
    try:
        record, known = json.loads((committed / NAMES).read_text(encoding="utf-8"))
        names = [Path(name).name for name in (record, *known)]
    except (OSError, ValueError, TypeError):
        return None, []
    return (names[0] if (committed / names[0]).is_file() else None), names[1:]


def complete_result(folder: str | Path, record: str) -> Path | None:
    """The folder that holds the complete result of a folder; None if there is none."""
    folder = Path(folder)
    return next((place for place in (folder / COMMITTED, folder) if (place / record).is_file()), None)


def _place(source: Path, target: Path) -> None:
    """Puts a file in place in one step and keeps the source."""
    beside = target.with_name(f"{OWN_PREFIX}{target.name}")
    beside.unlink(missing_ok=True)
    try:
        try:
            os.link(source, beside)
        except OSError:  # a file system without links
            shutil.copy2(source, beside)
        beside.replace(target)
    except OSError:  # a full disk; the source is still complete
        beside.unlink(missing_ok=True)
        raise
