# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Selects the two series of a study by rules from a file, with a clear message if they do not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...common.errors import InputError

ROLES = ("moving", "fixed")


def read_settings(path: str | Path) -> dict[str, Any]:
    """Settings of the application.

    Args:
        path: JSON with "selections", the rules of MONAI Deploy's DICOMSeriesSelectorOperator for the names "moving" and
            "fixed", and "options", those of the command register.

    Raises:
        InputError: unreadable, or not one rule for each of the two images.
    """
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
        names = sorted(s["name"] for s in settings["selections"] if s["conditions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as settings of this application ({error}).") from error
    if names != sorted(ROLES):
        raise InputError(f"{path} needs one selection for moving and one for fixed, got {names}.")
    return settings


def one_of_each(chosen: Mapping[str, Sequence[Any]], found: Sequence[Any]) -> dict[str, Any]:
    """The series of each image, if the rules left exactly one.

    Args:
        chosen: series by name of the selection.
        found: all series of the input, for the message.

    Raises:
        InputError: none or several fit a rule, or the same fits both.
    """
    there = "; ".join(map(described, found)) or "none"
    for role in ROLES:
        series = chosen.get(role, [])
        if len(series) != 1:
            fit = f"{len(series)} series fit" if series else "No series fits"
            raise InputError(f"{fit} the rule for the {role} image; change the rules. Series of the input: {there}.")
    pair = {role: chosen[role][0] for role in ROLES}
    if pair["moving"].SeriesInstanceUID == pair["fixed"].SeriesInstanceUID:
        raise InputError(f"The same series fits both rules; change the rules. Series of the input: {there}.")
    return pair


def described(series: Any) -> str:
    """A short description of a series."""
    return (
        f"{series.SeriesDescription!r} (number {series.SeriesNumber}, {series.Modality}, "
        f"{len(series.get_sop_instances())} images)"
    )


def nifti_pair(folder: str | Path) -> dict[str, str] | None:
    """The images moving.nii[.gz] and fixed.nii[.gz] of a folder; None if it contains no NIfTI file.

    Raises:
        InputError: there are NIfTI files, but not one of each name.
    """
    files = sorted(p for p in Path(folder).glob("*") if p.name.endswith((".nii", ".nii.gz")))
    if not files:
        return None
    pair = {role: [f for f in files if f.name.split(".")[0] == role] for role in ROLES}
    if any(len(found) != 1 for found in pair.values()):
        names = ", ".join(f.name for f in files)
        raise InputError(f"{folder} needs one moving.nii.gz and one fixed.nii.gz; it contains {names}.")
    return {role: str(found[0]) for role, found in pair.items()}
