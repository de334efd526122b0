# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How a run ends: exit codes, one sentence for an error a user can act on, and a short summary of a result."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from enum import IntEnum
from types import TracebackType

from ..common.bundle import NAME
from ..common.errors import InputError
from .options import check_command_line

logger = logging.getLogger(__name__)

INTERRUPTED = "Interrupted; complete results are kept. Run the same command again to continue."


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    BAD_INPUT = 1  # one sentence on stderr says what is wrong
    NOTHING_FOUND = 3  # the images were read, but no regions match
    SOME_FAILED = 4  # some pairs or cases of a list could not be used
    NOTHING_TRUSTED = 5  # written, but neither the initial alignment nor the field makes the images agree better
    INTERRUPTED = 130  # Ctrl-C


_in_program: ContextVar[bool] = ContextVar("in_program", default=False)


@contextmanager
def as_program() -> Iterator[None]:
    """Marks a run of the command line, whose exit code ends the program."""
    token = _in_program.set(True)
    try:
        yield
    finally:
        _in_program.reset(token)


@contextmanager
def ending() -> Iterator[None]:
    """Lets the exit code of a run end the program; for a caller in Python the results say how the run ended."""
    with nullcontext() if _in_program.get() else suppress(SystemExit):
        yield


def input_error(error: BaseException | None) -> InputError | None:
    """The error to show to the user: an :class:`InputError` in the chain of an exception, or one about memory."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, InputError):
            return error
        if is_out_of_memory(error):
            return InputError(
                "Out of memory; use a smaller --max_size, a machine with more memory, or --device cpu if a GPU ran out."
            )
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def reason(error: BaseException) -> str:
    """One line on why a pair failed: an :func:`input_error`, or the kind and the text of the first cause."""
    plain = input_error(error)
    while plain is None and error.__cause__ is not None:
        error = error.__cause__
    lines = str(plain or error).strip().splitlines() or [""]
    return lines[0] if plain else f"{type(error).__name__}: {lines[0]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the CPU or a GPU.

    PyTorch has no exception class for the CPU: its allocator raises a RuntimeError, recognised by its text.
    """
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "DefaultCPUAllocator: can't allocate" in text)
    )


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raises an :class:`InputError` that MONAI's config parser has wrapped as itself."""
    try:
        yield
    except Exception as error:
        plain = input_error(error)
        if plain is None or plain is error:
            raise
        raise InputError(str(plain)) from error


def plain_errors() -> None:
    """An :class:`InputError` that ends MONAI's command or a program of this package prints one sentence; exit code 1.

    Called first by every config. Other programs keep their ``sys.excepthook`` and their logging. If MONAI's command
    runs the config, its options are checked, because MONAI silently accepts unknown ones.
    """
    program = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "")
    if not program.startswith(("monai.bundle", f"{NAME}.")):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        plain = input_error(error)
        if plain is None:
            sys.__excepthook__(kind, error, trace)
        else:
            sys.stderr.write(f"error: {plain}\n")

    sys.excepthook = hook
    quiet_engines()
    if program.startswith("monai.bundle") and sys.argv[1:2] == ["run"]:
        check_command_line(sys.argv[2:])


def quiet_engines() -> None:
    """Drops Ignite's lines about an exception from the log: they show objects instead of the cause."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: "terminating due to exception" not in str(record.msg))


def finish(evaluator, need_regions: bool = True) -> None:
    """Logs what was written; ends the program with ``NOTHING_FOUND`` if no pair of regions was found.

    ``evaluator`` has run one pair; ``need_regions`` is False for methods that find a field without regions.
    """
    from ..metrics.assembly import TITLES  # loads torch, which --help does not need

    output = evaluator.state.output
    result, metrics = output["pred"], output["metrics"]
    logger.info("%d matched regions; wrote %s", len(result.matches), ", ".join(output["files"]))
    for key in ("dice", "hd95_mm", "tre_mm"):
        if key in metrics:
            stages = "  ".join(f"{s} {v['mean']:.4g}" for s, v in metrics[key].items() if v["mean"] is not None)
            logger.info("mean %s: %s", TITLES[key], stages)
    if need_regions and not len(result.matches):
        sys.exit(ExitCode.NOTHING_FOUND)
    if not output["trusted"]:
        sys.exit(ExitCode.NOTHING_TRUSTED)
