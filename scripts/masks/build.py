# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""One line of a config to a source of masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..common.errors import InputError
from .bundle import BundleSource
from .bundled import BundledNet
from .cache import CachedSource
from .files import FilesSource
from .net import NETS
from .sat.source import SATSource

# What the words before the colon make; the rest of the text is the argument. Networks of the bundle take none.
WITH_ARGUMENT: dict[str, Callable[..., nn.Module]] = {"bundle": BundleSource, "files": FilesSource}
WITHOUT: dict[str, Callable[..., nn.Module]] = {"sat": SATSource}


def build_source(
    source: str, options: Mapping[str, Any] | None = None, cache_dir: str | Path | None = None
) -> nn.Module:
    """Builds a source of masks.

    Args:
        source: "cardiac", "abdomen", "sat", "bundle:PATH_OR_NAME" or "files:PATTERN".
        options: arguments of the source by name; None values count as not given.
        cache_dir: folder in which masks are kept; None makes them anew every time.

    Returns:
        A :class:`scripts.masks.source.MaskSource`, on the CPU.

    Raises:
        InputError: unknown source, an option that it does not have, or whatever the source cannot use.
    """
    kind, colon, argument = str(source).partition(":")
    given = {key: value for key, value in (options or {}).items() if value is not None}
    if kind in NETS and not colon:
        make, arguments = BundledNet, (kind,)
    elif kind in WITHOUT and not colon:
        make, arguments = WITHOUT[kind], ()
    elif kind in WITH_ARGUMENT and argument:
        make, arguments = WITH_ARGUMENT[kind], (argument,)
    else:
        choices = [*NETS, *WITHOUT, "bundle:PATH", "files:PATTERN"]
        raise InputError(f"Unknown source of masks {source!r}; choose one of {', '.join(choices)}.")
    try:
        made = make(*arguments, **given)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        word = str(error).split("'")[1]
        raise InputError(f"The source {source} has no option {word!r}; leave it out.") from error
    return made if cache_dir is None else CachedSource(made, cache_dir)


def mask_source(source: str | None, cache_dir: str | Path | None = None) -> nn.Module | str | None:
    """What :class:`scripts.data.structures.AddMasks` takes: None and "label" as they are, a word as its source."""
    return source if source in (None, "label") else build_source(source, cache_dir=cache_dir)
