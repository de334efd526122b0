# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Opening image and transform files of other programs: read completely, or refused with one sentence."""

from __future__ import annotations

import inspect
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ..common.errors import InputError
from ..common.files import DATA_FILE, HEADER_BYTES, existing

MAX_GB = 4.0  # of one image in float32, in 1e9 bytes: 1000 x 1000 x 1000 voxels
_limit_gb: ContextVar[float] = ContextVar("limit_gb", default=MAX_GB)
# What nibabel and numpy raise for damaged files: from headers, from compression, from impossible sizes.
UNREADABLE = (
    ImageFileError, HeaderDataError, OSError, EOFError, ValueError, TypeError, LookupError, OverflowError, MemoryError,
    zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def readable(path: str | Path, kind: str) -> Iterator[None]:
    """Turns any exception raised while a file is read into an :class:`InputError` that says what it should be."""
    try:
        yield
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path} cannot be read (permission denied); change its permissions.") from error
    except MemoryError as error:
        raise InputError(f"{path} needs more memory than this machine has; crop or resample it first.") from error
    except UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read as {kind} ({reason}); it may be truncated.") from error


@contextmanager
def size_limit(gb: float) -> Iterator[None]:
    """Sets the size of the largest image or field that can be read in the block, in 1e9 bytes of float32.

    The header is checked before the voxels are read, because a small compressed file can fill the memory. Raises
    :class:`InputError` unless ``gb`` is a positive number.
    """
    if isinstance(gb, bool) or not isinstance(gb, Real) or not gb > 0:
        raise InputError(f"max_image_gb must be a positive number, got {gb!r}.")
    token = _limit_gb.set(float(gb))
    try:
        yield
    finally:
        _limit_gb.reset(token)


def limited(verb: Callable) -> Callable:
    """A function whose argument ``max_image_gb`` is the :func:`size_limit` of everything that it reads."""
    signature = inspect.signature(verb)

    @wraps(verb)
    def call(*arguments: Any, **options: Any) -> Any:
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        with size_limit(bound.arguments["max_image_gb"]):
            return verb(*arguments, **options)

    return call


def check_size(path: str | Path, shape: tuple[int, ...]) -> None:
    """Raises :class:`InputError` for a file whose header announces more voxels than :func:`size_limit` allows."""
    size, limit = math.prod(int(s) for s in shape) * 4 / 1e9, _limit_gb.get()
    if size > limit:
        raise InputError(
            f"{path} announces the size {tuple(shape)}, {size:.1f} GB in memory; the limit is {limit:g} GB. Crop or "
            "resample it, or raise --max_image_gb."
        )


def load_array(path: str | Path) -> NDArray:
    """The first array of an npz file, float32; its size is checked before it is decompressed."""
    path = existing(path, "an npz file")
    with readable(path, "npz"), zipfile.ZipFile(path) as archive:
        if not archive.namelist():
            raise InputError(f"{path} holds no array.")
        with archive.open(archive.namelist()[0]) as stream:
            version = np.lib.format.read_magic(stream)
            headers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            check_size(path, headers[version[0]](stream)[0])
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[arrays.files[0]].astype(np.float32)


def load_numbers(path: str | Path) -> NDArray:
    """The numbers of a text file as rows and columns; empty if it holds anything else."""
    path = existing(path, "a text file with a matrix")
    if path.stat().st_size > HEADER_BYTES:  # a 4 x 4 matrix is shorter, and a transform may be very long
        return np.empty((0, 0))
    try:
        # numpy warns of a file without numbers, and would open a path that ends in .gz as an archive.
        with warnings.catch_warnings(action="ignore", category=UserWarning), path.open(encoding="utf-8-sig") as lines:
            return np.loadtxt(lines, ndmin=2)
    except ValueError:  # UnicodeDecodeError is one
        return np.empty((0, 0))


def read_itk(path: str | Path) -> sitk.Image:
    """An image of any format that ITK reads; size and data files are checked before the voxels are read."""
    path = existing(path, "an image")
    name = itk_name(path)
    check_data_files(path)
    try:
        with quiet_itk():
            reader = sitk.ImageFileReader()
            reader.SetFileName(name)
            reader.ReadImageInformation()
            check_size(path, (*reader.GetSize(), reader.GetNumberOfComponents()))
            return reader.Execute()
    except (RuntimeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable image (NIfTI, NRRD, MHA, PNG, JPEG, DICOM folder).") from error


def check_data_files(path: Path) -> None:
    """Raises :class:`InputError` if a text header (.mhd, .nhdr, or .mha and .nrrd) takes voxels from another folder.

    Without this check a header could copy any file of the machine into the output image.
    """
    with readable(path, "an image"), path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
    if head.startswith(b"NRRD"):
        head = head.split(b"\n\n")[0].split(b"\r\n\r\n")[0]
    for found in DATA_FILE.findall(head):
        name = os.fsdecode(found)
        if name.upper() == "LOCAL":
            return  # voxels follow; they are not text
        if Path(name).name != name or name.upper().startswith("LIST"):
            raise InputError(f"{path} takes its voxels from {name!r}; the data must be one file beside the header.")
        # A pattern such as slice%03d.raw 1 9 1 names several files, all beside the header.
        if "%" not in name:
            existing(path.with_name(name), f"the data file of {path.name}")


def load_itk_transform(path: str | Path) -> sitk.Transform:
    """A transform of any format that ITK reads."""
    name = itk_name(existing(path, "a transform"))
    try:
        with quiet_itk():
            return sitk.ReadTransform(name)
    except (RuntimeError, UnicodeDecodeError) as error:  # the second from bytes of the file in ITK's own message
        raise InputError(f"{path} cannot be read as an ITK transform; it may be damaged or misnamed.") from error


def itk_name(path: str | Path) -> str:
    """A path as text for SimpleITK, which ends the process for a name that is not Unicode."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise InputError(f"The name {name} is not UTF-8, and ITK cannot open it; rename the file.") from error
    return str(path)


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Discards what ITK itself prints to stderr, such as the call stack of HDF5 for a damaged file.

    Raises:
        MemoryError: ITK has too little memory; only the text of its own RuntimeError tells it from a damaged file.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    except RuntimeError as error:
        if "Failed to allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        raise
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
