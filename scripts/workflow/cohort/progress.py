# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""What a cohort shows while it runs: one bar on the terminal, one log file per pair."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import case
from .pairs import Entry


def work(entries: Iterable[Entry], title: str, register: Callable[[Entry], Mapping[str, Any] | None]) -> None:
    """Registers pairs one after the other under a bar, which log files do not get; failures are always shown."""
    entries = list(entries)
    disable = None if entries else True  # None: only on a terminal
    with quiet_console(), tqdm(entries, desc=title, unit="pair", disable=disable) as bar:
        for entry in bar:
            bar.set_postfix_str(entry.name, refresh=False)
            show_failure(register(entry))


def show_failure(record: Mapping[str, Any] | None) -> None:
    """Shows why a pair failed, if it did."""
    if record and record["status"] == case.FAILED:
        tqdm.write(f"{record['name']}: failed: {record['error']}", file=sys.stderr)


@contextmanager
def case_log(path: Path) -> Iterator[None]:
    """Everything that is logged inside the context also goes to a file."""
    handler = logging.FileHandler(path, mode="w", encoding="utf-8", delay=True)
    handler.handleError = lambda record: None  # a full disk is reported once, by the results that no longer fit
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


@contextmanager
def quiet_console() -> Iterator[None]:
    """Leaves the terminal to the progress bar; what is logged is in the logs of the pairs."""
    shown = [
        (handler, handler.level)
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]
    for handler, _ in shown:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for handler, level in shown:
            handler.setLevel(level)
