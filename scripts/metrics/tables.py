# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Metrics of many pairs as rows of a table, with mean and standard deviation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .assembly import STAGES


def flat_metrics(metrics: Mapping[str, Any], names: Mapping[str, str] | None = None) -> dict[str, float]:
    """Metrics of a pair by keys such as "dice/mean/initial", "hd95_mm/2/final" and "field/sdlogj".

    A pair without a field keeps its last stage as the final one: leaving it out would flatter the mean. Unknown values
    are left out, as is the Dice of single region pairs, whose numbers have no meaning across pairs.

    Args:
        metrics: of :func:`scripts.metrics.pair.pair_metrics`.
        names: structure names by label value, as text, for the keys.
    """
    names = names or {}
    flat: dict[str, Any] = {}
    for key, value in metrics.items():
        if "initial" not in value:
            flat |= {f"{key}/{name}": number for name, number in value.items() if isinstance(number, (int, float))}
            continue
        stages = {**value, "final": value.get("final", value.get("aligned", value["initial"]))}
        for name in ("mean",) if key == "region_dice" else value["initial"]:
            title = name if key == "tre_mm" else names.get(name, name)
            flat |= {f"{key}/{title}/{stage}": stages[stage].get(name) for stage in STAGES if stage in stages}
    return {k: v for k, v in flat.items() if v is not None}


def mean_sd(values: Iterable[float]) -> dict[str, float | int]:
    """Mean, standard deviation (of the population) and number of some values."""
    values = list(values)
    return {"mean": float(np.mean(values)), "sd": float(np.std(values)), "n": len(values)}


def summarise_rows(rows: Sequence[Mapping[str, Any]], without: Sequence[str] = ()) -> dict[str, dict]:
    """:func:`mean_sd` of every column of numbers, in the order in which the columns appear; rows may lack columns."""
    keys = dict.fromkeys(k for row in rows for k in row if k not in without)
    columns = {k: [row[k] for row in rows if row.get(k) is not None] for k in keys}
    return {k: mean_sd(values) for k, values in columns.items() if values}
