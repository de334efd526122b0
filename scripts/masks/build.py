# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A source of masks from one line of a config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..common.errors import InputError
from .bundle import BundleSource
from .bundled import BundledNet
from .cache import CachedSource
from .files import FilesSource
from .net import NETS
from .redraw import RedrawnSource
from .sat.source import SATSource
from .source import MaskSource

# By the word before the colon; the text after it is the first argument. A new source is a line here.
WITH_ARGUMENT: dict[str, Callable[..., MaskSource]] = {"bundle": BundleSource, "files": FilesSource}
WITHOUT: dict[str, Callable[..., MaskSource]] = {"sat": SATSource}


def build_source(
    source: str, options: Mapping[str, Any] | None = None, cache_dir: str | Path | None = None, redraw: bool = False
) -> MaskSource:
    """Builds a source of masks on the CPU.

    Args:
        source: "cardiac", "abdomen", "sat", "bundle:PATH_OR_NAME" or "files:PATTERN".
        options: arguments of the source by name; None values count as not given.
        cache_dir: folder in which masks are kept; None computes them every time.
        redraw: whether LiteMedSAM redraws the masks, see :class:`scripts.masks.redraw.RedrawnSource`.
    """
    kind, colon, argument = str(source).partition(":")
    options = options or {}
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise InputError(f"The options of a source of masks must be given by name, got {options!r}.")
    given = {key: value for key, value in options.items() if value is not None}
    if kind in NETS and not colon:
        make, arguments = BundledNet, (kind,)
    elif kind in WITHOUT and not colon:
        make, arguments = WITHOUT[kind], ()
    elif kind in WITH_ARGUMENT and argument:
        make, arguments = WITH_ARGUMENT[kind], (argument,)
    else:
        choices = [*NETS, *WITHOUT, "bundle:PATH", "files:PATTERN"]
        raise InputError(f"Unknown source of masks {source!r}; choose one of {', '.join(choices)}.")
    unknown = given.keys() - inspect.signature(make).parameters
    if unknown:
        raise InputError(f"The source {source} has no option {min(unknown)!r}; leave it out.")
    made = make(*arguments, **given)
    if redraw:
        if kind in NETS and not NETS[kind].redrawn:
            raise InputError(f"Redrawing improves no structure of the source {kind}; leave out --redraw.")
        made = RedrawnSource(made, NETS[kind].redrawn if kind in NETS else None)
    return made if cache_dir is None else CachedSource(made, cache_dir)


def mask_source(
    source: str | None, cache_dir: str | Path | None = None, redraw: bool = False
) -> MaskSource | str | None:
    """The source for :class:`scripts.data.structures.AddMasks`: None and "label" unchanged, other words built."""
    return source if source in (None, "label") else build_source(source, None, cache_dir, redraw)
