# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The record of the settings of a run, read from the objects that the config built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..common.fingerprint import settings


def recorded(**parts: Any) -> dict[str, Any]:
    """The settings of the parts of a run by name, ready for JSON.

    Objects are recorded with their class and their public attributes, defaults included, so that no option has to be
    listed by hand; see :func:`scripts.common.fingerprint.settings`.
    """
    return settings(parts)


def flat_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a record by dotted name, e.g. "registration.everything.points_per_side", without classes."""
    return dict(_leaves(record, ""))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key != "class":
                yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        for inner in value:
            yield from _leaves(inner, name)
    else:
        yield name, value
