# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How a run ends for the person at the terminal: one sentence on bad input, a summary and an exit code otherwise."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from ..common.errors import InputError
from .run import check_command_line

logger = logging.getLogger(__name__)

NOTHING_FOUND = 3  # exit code when the images were read but no region could be matched
SOME_FAILED = 4  # exit code when some pairs or cases of a list could not be used


def input_error(error: BaseException | None) -> InputError | None:
    """The :class:`InputError` behind an exception, however often it was wrapped."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, InputError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def unwrapped() -> Iterator[None]:
    """An :class:`InputError` that MONAI's config parser has wrapped comes out as itself."""
    try:
        yield
    except Exception as error:
        plain = input_error(error)
        if plain is None or plain is error:
            raise
        raise InputError(str(plain)) from error


def plain_errors() -> None:
    """From now on an :class:`InputError` that ends the program prints its sentence and no traceback; exit code 1.

    Called first by every config. Where MONAI's command runs it, the options there are checked, because MONAI does not.

    Raises:
        InputError: an option of the command line that the config does not know, or a word where it has a number.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        plain = input_error(error)
        if plain is None:
            sys.__excepthook__(kind, error, trace)
        else:
            sys.stderr.write(f"error: {plain}\n")

    sys.excepthook = hook
    program = getattr(sys.modules["__main__"], "__spec__", None)
    if program is not None and program.name == "monai.bundle.__main__" and sys.argv[1:2] == ["run"]:
        check_command_line(sys.argv[2:])


def finish(evaluator, need_regions: bool = True) -> None:
    """Reports what was written, and ends with exit code 3 when no pair of regions was found.

    Args:
        evaluator: the evaluator that ran one pair.
        need_regions: False for methods that find a field without regions.
    """
    output = evaluator.state.output
    result, metrics = output["pred"], output["metrics"]
    logger.info("%d matched regions; wrote %s", len(result.matches), ", ".join(output["files"]))
    for key, name in (("dice", "mean Dice"), ("hd95_mm", "mean HD95 (mm)"), ("tre_mm", "mean TRE (mm)")):
        if key in metrics:
            stages = "  ".join(
                f"{stage} {value['mean']:.4g}" for stage, value in metrics[key].items() if value["mean"] is not None
            )
            logger.info("%s: %s", name, stages)
    if need_regions and not len(result.matches):
        sys.exit(NOTHING_FOUND)
