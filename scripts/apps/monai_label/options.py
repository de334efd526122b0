# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The options of the verbs as entries of a client's panel, and back.

Requests are not trusted: options that name files are not offered, and texts are restricted to the words offered or
to harmless characters, because MONAI's config language runs a text that begins with ``$``.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser

from ...common.bundle import CONFIGS
from ...common.errors import InputError
from ...correspondence.matching import STRATEGIES
from ...data.intensity import WINDOWS
from ...data.reader import HEADER_POLICIES
from ...masks.source import MODALITIES
from ...roi.image_terms import TERMS
from ...sam.build import NAMES, PRECISIONS
from ...workflow.options import KINDS, PATHS

CHOICES = {
    "window": WINDOWS, "header": HEADER_POLICIES, "sam": NAMES, "precision": PRECISIONS, "matching": STRATEGIES,
    "modality": MODALITIES, "init": ("none", "moments", "affine"), "masks": ("cardiac", "abdomen"),
    "overlap": ("iou", "smaller"), "linking": ("auto", "link", "slice"), "image_term": TERMS,
}  # fmt: skip
# What the app decides, what names a file, and what belongs to the weights.
HIDDEN = {
    *(set(PATHS) - {"init"}), "device", "seed", "sample", "source", "source_options", "points", "labels", "box",
    "names", "prompt_image", "points_frame", "frame", "dense", "inverse", "confidence", "overview", "viewer_size",
    "keep", "progress", "cache_gb", "spatial_dims", "strides", "attention_window",
}  # fmt: skip
# The options that the command correspond looks at, among those of its two configs.
CORRESPOND = (
    "search_mm", "search_slices", "propagate", "epsilon", "slice_axis", "window", "init", "max_size", "header",
    "fill_nan", "sam", "precision", "moving_frame", "fixed_frame",
)  # fmt: skip
HARMLESS = re.compile(r"[\w .,+\-]*")


def offered(configs: Sequence[str], only: Collection[str] | None = None) -> dict[str, Any]:
    """The options of some configs as MONAI Label's clients show them.

    Args:
        configs: file names in ``configs/``; the first that has an option counts.
        only: the options to take; None takes all.

    Returns:
        by name a bool, a number, a text, or a list of the words to choose from, the default first. An empty text leaves
        the option at its default.
    """
    found: dict[str, Any] = {}
    for name in configs:
        for key, default in ConfigParser.load_config_file(str(CONFIGS / name)).items():
            wanted = key in KINDS and key not in HIDDEN if only is None else key in only
            if wanted and key not in found and _is_option(default):
                found[key] = _entry(key, default)
    return found


def chosen(entries: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a request changes from their defaults.

    Args:
        entries: from :func:`offered`.
        request: as the client sends it; other keys are ignored.

    Raises:
        InputError: a value of another kind, or a word that is not offered.
    """
    values = {}
    for key, entry in entries.items():
        given = request.get(key, entry)
        if isinstance(given, list) and isinstance(entry, list) and sorted(given, key=str) == sorted(entry, key=str):
            given = given[0]  # clients send the whole list with the chosen word first
        value = _value(key, entry, given)
        if value != (entry[0] if isinstance(entry, list) else entry):
            values[key] = value
    return values


def points(values: Any, name: str) -> list[list[float]]:
    """Points of a request, as numbers.

    Raises:
        InputError: anything else.
    """
    try:
        return [[float(v) for v in point] for point in values or []]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a list of voxels such as [[64, 64, 5]], got {values!r}.") from error


def _is_option(default: Any) -> bool:
    if isinstance(default, dict):
        return bool(default) and all(isinstance(v, (int, float)) for v in default.values())
    if isinstance(default, list):
        return bool(default) and all(isinstance(v, (int, float, str)) and "$" not in str(v) for v in default)
    return default is None or isinstance(default, (bool, int, float, str))


def _entry(key: str, default: Any) -> Any:
    if key in CHOICES:
        return [default, *(word for word in CHOICES[key] if word != default)]
    if isinstance(default, (list, dict)):
        return json.dumps(default)
    if default is None or str(default).startswith(("$", "@")):
        return ""  # depends on other options
    return default


def _value(key: str, entry: Any, given: Any) -> Any:
    """A value as the config takes it."""
    if isinstance(entry, list):
        if given not in entry:
            raise InputError(f"{key} must be one of {', '.join(map(str, entry))}, got {given!r}.")
        return given
    if isinstance(entry, bool):
        words = {"true": True, "false": False}
        if isinstance(given, bool) or str(given).lower() in words:
            return given if isinstance(given, bool) else words[given.lower()]
        raise InputError(f"{key} must be true or false, got {given!r}.")
    if isinstance(entry, (int, float)):
        try:
            number = float(given)
        except (TypeError, ValueError) as error:
            raise InputError(f"{key} must be a number, got {given!r}.") from error
        return int(number) if number.is_integer() and isinstance(entry, int) else number
    if given in ("", entry):
        return entry
    with contextlib.suppress(ValueError):  # a plain word
        given = json.loads(given) if isinstance(given, str) else given
    return harmless(key, given)


def harmless(key: str, value: Any) -> Any:
    """A value of plain words and numbers, alone or in lists and mappings.

    Raises:
        InputError: it contains characters that mean something in paths or in MONAI's config language.
    """
    if isinstance(value, (list, tuple)):
        return [harmless(key, v) for v in value]
    if isinstance(value, Mapping):
        return {harmless(key, k): harmless(key, v) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if not isinstance(value, str) or not HARMLESS.fullmatch(value) or ".." in value:
        raise InputError(f"{key} must be numbers or plain words, got {value!r}.")
    return value
