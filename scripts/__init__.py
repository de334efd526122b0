# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""SAM registration: a MONAI bundle that aligns two medical images with the help of Segment Anything.

``from scripts import register, warp, invert, compose, evaluate`` gives the verbs of the command line; they are loaded
when they are first asked for, so that ``import scripts`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module

VERBS = {
    "register": "scripts.verbs.register",
    "warp": "scripts.verbs.warp",
    "invert": "scripts.verbs.invert",
    "compose": "scripts.verbs.compose",
    "evaluate": "scripts.verbs.evaluate",
}


def __getattr__(name: str):
    """Loads a verb from its module."""
    if name in VERBS:
        return getattr(import_module(VERBS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *VERBS])
