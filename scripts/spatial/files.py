# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Opening the files of other programs: read completely, or refused in one sentence, whatever is wrong with them."""

from __future__ import annotations

import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ..common.errors import InputError

# What nibabel and numpy raise for damaged files: from headers, from compression, from sizes that cannot be.
UNREADABLE = (
    ImageFileError, HeaderDataError, OSError, EOFError, ValueError, TypeError, LookupError, OverflowError, MemoryError,
    zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def readable(path: str | Path, kind: str) -> Iterator[None]:
    """Whatever is raised while a file is read becomes one sentence.

    Args:
        path: of the file.
        kind: what it should be.

    Raises:
        InputError: missing, truncated, damaged or another format.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give the path of a {kind} file.") from error
    except UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} cannot be read as {kind} ({reason}); it may be truncated or another format."
        ) from error


def load_numbers(path: str | Path) -> NDArray:
    """The numbers of a text file, as rows and columns; empty where it holds anything else."""
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # numpy's, on a file without any
            return np.loadtxt(path, ndmin=2, encoding="utf-8-sig")
    except ValueError:  # UnicodeDecodeError is one
        return np.empty((0, 0))


def load_itk_transform(path: str | Path) -> sitk.Transform:
    """A transform from any file that ITK reads.

    Raises:
        InputError: the file is no transform that ITK reads.
    """
    try:
        with quiet_itk():
            return sitk.ReadTransform(str(path))
    except (RuntimeError, UnicodeDecodeError) as error:  # the second from bytes of the file in ITK's own message
        raise InputError(
            f"{path} cannot be read as an ITK transform; it may be damaged or another format than its name says."
        ) from error


@contextmanager
def quiet_itk() -> Iterator[None]:
    """What ITK's readers print past Python goes nowhere meanwhile: HDF5 shows a stack of calls for a damaged file."""
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
