# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The output folder of a run: writable, and written by one run at a time."""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..common.errors import InputError
from ..common.files import check_outputs, there
from ..common.lock import locked
from ..correspondence.region_pairs import RECORD

STORE = ".cache"  # folder in the output folder where masks are kept by default
_held = threading.local()  # .folders: those that this thread has locked


def check_output_dir(path: str | Path) -> Path:
    """Makes an output folder before any work is done.

    Raises:
        InputError: the folder cannot be made or written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        if (path / STORE).is_symlink():  # results stay in their folder; --cache_dir names another place
            (path / STORE).unlink()
    except OSError as error:
        raise InputError(
            f"Nothing can be written to {path} ({error.strerror or error}); give another --output_dir."
        ) from error
    return path


@contextmanager
def sole_writer(folder: str | Path, wait_s: float = 0.0) -> Iterator[Path]:
    """Locks an output folder, which is made if it is missing; the same thread may lock it again.

    Args:
        folder: to lock.
        wait_s: how long to wait for another process that writes there.

    Raises:
        InputError: another process or thread writes there, or nothing can be written.
    """
    folder = check_output_dir(folder)
    folders, name = _folders(), folder.resolve()
    if name in folders:
        yield folder
        return
    with locked(folder, wait_s):
        folders.add(name)
        try:
            yield folder
        finally:
            folders.discard(name)


def hold(folder: str | Path, inputs: Iterable[str | Path | None] = ()) -> None:
    """Locks an output folder until the program ends; called first by configs, for MONAI's own command.

    Does nothing if this thread has already locked it, or in any but the first of several processes that share the work.
    Raises :class:`InputError` as :func:`sole_writer` does, or if a result would overwrite one of the ``inputs``.
    """
    check_inputs(Path(folder), inputs)
    if int(os.environ.get("RANK", "0")) or Path(folder).resolve() in _folders():
        return
    stack = ExitStack()
    stack.enter_context(sole_writer(folder))
    atexit.register(stack.close)


def _folders() -> set[Path]:
    return _held.__dict__.setdefault("folders", set())


_MASKS = [f"{role}_{what}" for role in ("moving", "fixed") for what in ("rois", "regions")]
# The files behind each name of the option "keep".
OUTPUTS = {
    "rois": tuple(name + kind for name in _MASKS for kind in (".seg.nrrd", ".nii.gz", ".png")),
    "ddf": ("ddf.nii.gz",),
    "inverse_ddf": ("inverse_ddf.nii.gz",),
    "confidence": ("confidence.nii.gz",),
    "moved": ("moved.nii.gz", "moved.png"),
    "moved_label": ("moved_label.nii.gz",),
    "moved_landmarks": ("moved_landmarks.csv",),
    "overview": ("overview.png",),
    "report": ("report.html",),
}
FILES = frozenset(name for names in OUTPUTS.values() for name in names)
DICOM = "dicom"  # folder in a result folder for its DICOM objects


def own_dicom(folder: Path) -> set[str]:
    """The name of the folder with the DICOM objects of an earlier result, if there is one."""
    made = ("registration.dcm", "moving_regions.dcm", "fixed_regions.dcm")
    return {DICOM} if any((folder / DICOM / name).is_file() for name in made) else set()


def check_inputs(folder: Path, inputs: Iterable[str | Path | None]) -> None:
    """Raises :class:`InputError` if a result in ``folder`` would overwrite an input or lie among the files of one."""
    given = [name for name in inputs if name is not None and there(name)]
    if any(os.path.isdir(name) and folder.exists() and os.path.samefile(name, folder) for name in given):
        raise InputError(f"{folder} is an input as well as the output folder; give another --output_dir.")
    for name in given:
        if own_dicom(folder) and (folder / DICOM).resolve() in (Path(name).resolve(), *Path(name).resolve().parents):
            raise InputError(f"{name} lies among the results in {folder}; give another --output_dir.")
    check_outputs([folder / name for name in (*FILES, RECORD)], given)
