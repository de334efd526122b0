# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Tunes a classical tool on training patients: ``python -m scripts.benchmarks.peers.tuning TOOL --data_dir DATA``."""

from __future__ import annotations

import itertools
import sys
import tempfile
from dataclasses import fields, replace
from typing import Any

import fire
from tqdm import tqdm

from ...common.errors import InputError
from ...workflow.outcome import plain_errors
from ..common import hardware
from ..tables import FINAL, INITIAL, averages, markdown
from .classical import TOOLS, missing_package
from .compare import measure_pair, pairs_of

TITLES = {
    "settings": "settings",
    "initial_dice": "initial Dice",
    "dice": "Dice",
    "hd95_mm": "HD95 (mm)",
    "sdlogj": "SDlogJ (det + 3)",
    "folds_percent": "folds (%)",
    "seconds": "seconds per pair",
}


def combinations(tool: str, grid: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the listed values; a value that is not a list counts as a list of one.

    Args:
        tool: key of ``TOOLS``.
        grid: values by parameter; a parameter that is itself a sequence is given as a list of tuples.

    Raises:
        InputError: an unknown tool or parameter, or a package that is not installed.
    """
    if tool not in TOOLS:
        raise InputError(f"Unknown tool {tool!r}; choose one of {', '.join(TOOLS)}.")
    package = missing_package(TOOLS[tool])
    if package:
        raise InputError(f"The tool {tool} needs a package that is not installed; try: pip install {package}")
    known = [f.name for f in fields(TOOLS[tool])]
    for name in grid:
        if name not in known:
            raise InputError(f"The tool {tool} has no parameter {name!r}; it has {', '.join(known)}.")
    lists = [values if isinstance(values, list) else [values] for values in grid.values()]
    return [dict(zip(grid, values)) for values in itertools.product(*lists)]


def main(tool: str, data_dir: str, patients: int = 4, dataset: str = "datasets/acdc.json", **grid: Any) -> None:
    """Prints one line per combination of parameters.

    Args:
        tool: key of ``scripts.benchmarks.peers.classical.TOOLS``.
        data_dir: folder with the data set and its split.
        patients: training patients, evenly spread over the split.
        dataset: overlay of the data set in ``configs/``.
        grid: parameters of the tool, a value or a list of values each.
    """
    plain_errors()
    chosen = combinations(tool, grid)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        values = {"data_dir": str(data_dir), "dataset_dir": folder, "masks": None}
        values["validation_list"] = "$acdc_pairs(@data_dir, 'training', @dataset_dir)"
        items, load, structures = pairs_of(dataset, values)
        pairs = [load(item) for item in items[:: max(1, len(items) // patients)][:patients]]
        for settings in tqdm(chosen, unit="setting", file=sys.stderr):
            rows = [measure_pair(replace(TOOLS[tool], **settings), data, structures) for data in pairs]
            columns = {**FINAL, "initial_dice": INITIAL["dice"], "seconds": "seconds"}
            lines.append({"settings": ", ".join(f"{k} {v}" for k, v in settings.items())} | averages(rows, columns))
    sys.stdout.write(f"{tool}, {len(pairs)} training patients, {hardware()}\n\n{markdown(lines, TITLES)}")


if __name__ == "__main__":
    fire.Fire(main)
