# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Image registration with the help of Segment Anything, as a MONAI bundle.

``from scripts import warp, invert, compose, evaluate`` gives the verbs of the command line; they are loaded when they
are first asked for, so that ``import scripts`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module

VERBS = ("warp", "invert", "compose", "evaluate")


def __getattr__(name: str):
    """Loads a verb from its module."""
    if name in VERBS:
        return getattr(import_module(f"scripts.tools.{name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *VERBS])
