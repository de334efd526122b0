"""A disk that becomes full at its n-th write, and a process that is killed at its n-th change of a name."""

from __future__ import annotations

import builtins
import errno
import gc
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk


class KilledError(BaseException):
    """Stands for SIGKILL: no handler of the program runs, because every later step raises it too."""


class Steps:
    """Counts steps; from step ``fail_at`` on, all of them fail.

    Args:
        fail_at: number of the first step that fails, from 1.
        error: makes the exception.
    """

    def __init__(self, fail_at: int, error: Callable[[], BaseException]) -> None:
        self.fail_at, self.error, self.done = fail_at, error, 0

    @property
    def failed(self) -> bool:
        return self.done >= self.fail_at

    def step(self) -> None:
        self.done += 1
        if self.failed:
            raise self.error()

    def counted(self, function: Callable) -> Callable:
        """The function, which is a step."""

        def call(*arguments: Any, **options: Any) -> Any:
            self.step()
            return function(*arguments, **options)

        return call


class _Stream:
    """A file whose writes are steps."""

    def __init__(self, file: Any, steps: Steps) -> None:
        self._file, self._steps = file, steps

    def write(self, data: Any) -> int:
        self._steps.step()
        return self._file.write(data)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def fileno(self) -> int:
        """Unsupported, so that Pillow and shutil do not write past this class."""
        raise io.UnsupportedOperation("fileno")

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def full_disk(write: int) -> Iterator[Steps]:
    """The disk is full from the given write on: of data, of a folder, of a name. Deleting still works."""
    steps, real = Steps(write, lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), io.open

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        stream = real(file, mode, *arguments, **options)
        return _Stream(stream, steps) if set(mode) & set("wxa") and str(file) != os.devnull else stream

    def by_itk(function: Callable) -> Callable:
        def call(item: Any, path: str, *arguments: Any, **options: Any) -> None:
            function(item, path, *arguments, **options)
            steps.done += 1
            if steps.failed:  # ITK does not notice
                os.truncate(path, os.path.getsize(path) // 2)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module in (builtins, io):
            patch.setattr(module, "open", opened)
        for name in ("mkdir", "rename", "replace", "link"):
            patch.setattr(os, name, steps.counted(getattr(os, name)))
        for name in ("WriteImage", "WriteTransform"):
            patch.setattr(sitk, name, by_itk(getattr(sitk, name)))
        yield steps


@contextmanager
def killed(change: int) -> Iterator[Steps]:
    """The process ends at the given change of a name: a rename, link, new folder or deletion."""
    steps = Steps(change, KilledError)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "rename", "replace", "link", "unlink", "remove", "rmdir"):
            patch.setattr(os, name, steps.counted(getattr(os, name)))
        patch.setattr(shutil, "rmtree", steps.counted(shutil.rmtree))
        for name in ("rename", "replace", "unlink", "rmdir"):
            patch.setattr(Path, name, steps.counted(getattr(Path, name)))
        yield steps


@contextmanager
def quick_collection() -> Iterator[None]:
    """Inside, ``gc.collect()`` passes over the many objects of the libraries, which were there before."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
