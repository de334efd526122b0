# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""SAM registration: a MONAI bundle that aligns two medical images with the help of Segment Anything.

The commands are functions: ``from scripts import register, warp`` (``from samreg import ...`` when installed). Each is
loaded on first use, so importing the package itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module

# The command masks is in scripts.verbs.masks: its name is taken by the package of mask sources.
VERBS = ("register", "correspond", "warp", "invert", "compose", "evaluate", "summarise")


def __getattr__(name: str):
    """Loads a command from its module."""
    if name in VERBS:
        return getattr(import_module(f".verbs.{name}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *VERBS])
