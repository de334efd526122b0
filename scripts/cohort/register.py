# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The verb ``register``: two images or a list of pairs, from Python and from the command line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.cohort.lock import locked
from scripts.engine.outcome import unwrapped
from scripts.engine.run import BUNDLE, run_bundle
from scripts.errors import InputError
from scripts.report.outputs import check_output_dir

METHODS = {"samreg": "samreg.json", "network": "inference.json"}


def register(
    moving: str | None = None,
    fixed: str | None = None,
    output_dir: str | None = None,
    *,
    pairs: str | None = None,
    method: str = "samreg",
    preset: str = "default",
    device: str = "auto",
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Registers two images, or all pairs of a list, and writes the results.

    Args:
        moving: path of the image to move.
        fixed: path of the image that stays.
        output_dir: folder of the results.
        pairs: CSV or JSON list of pairs instead of two images.
        method: "samreg" pairs regions and needs no training; "network" is the trained cross-attention network.
        preset: default, or the name of a file in configs/presets.
        device: auto, cpu, cuda or mps.
        seed: of everything random.
        options: values by key of configs/samreg.json, or configs/inference.json for the network; they win over the
            preset.

    Returns:
        the content of correspondence.json, whose "pairs" are empty when no regions matched; of a list that of
        summary.json.

    Raises:
        InputError: what cannot be used, in one sentence.
    """
    options = {"device": device, "seed": seed, **options}
    configs, values = resolve(moving, fixed, output_dir, pairs, preset, options, method)
    # Exit codes are for the command line; what happened stands in the result.
    with unwrapped(), contextlib.suppress(SystemExit):
        run(configs, values)
    name = "summary.json" if pairs else "correspondence.json"
    return json.loads((Path(values["output_dir"]) / name).read_text(encoding="utf-8"))


def run(configs: list[str], values: Mapping[str, Any]) -> None:
    """Runs the configs; ends the program with exit code 3 or 4 where not everything was registered."""
    if "cohort.json" in configs:
        run_bundle(configs, values)  # the cohort locks its folder itself
        return
    with locked(check_output_dir(values["output_dir"])):
        run_bundle(configs, values)


def resolve(
    moving: str | None,
    fixed: str | None,
    output_dir: str | None,
    pairs: str | None,
    preset: str,
    options: Mapping[str, Any],
    method: str = "samreg",
) -> tuple[list[str], dict[str, Any]]:
    """Config files and values of a call of ``register``.

    Raises:
        InputError: an unknown method or preset, no output folder, or both or neither of two images and a list.
    """
    if method not in METHODS:
        raise InputError(f"Unknown method {method!r}; choose one of {', '.join(METHODS)}.")
    if method != "samreg" and preset != "default":
        raise InputError(f"The preset {preset!r} is for the method samreg; leave it out, or give --method samreg.")
    if pairs is not None and (moving is not None or fixed is not None):
        raise InputError("Give either two images or --pairs with a list of pairs, not both.")
    if output_dir is None:
        raise InputError("No --output_dir was given; name the folder of the results.")
    configs = [METHODS[method], *preset_files(preset)]
    values = {**options, "output_dir": str(output_dir)}
    if pairs is not None:
        lists = ["cohort.json", *(["cohort_network.json"] if method == "network" else [])]
        return [*configs, *lists], {**values, "pairs": str(pairs)}
    for role, path in (("moving", moving), ("fixed", fixed)):
        if path is None:
            raise InputError(f"No {role} image was given; name two images, or a list of pairs with --pairs.")
    return configs, {**values, "moving": str(moving), "fixed": str(fixed)}


def preset_files(name: str) -> list[str]:
    """The config overlay of a preset, none for "default".

    Raises:
        InputError: there is no such preset.
    """
    known = sorted(p.stem for p in (BUNDLE / "configs" / "presets").glob("*.json"))
    if name != "default" and name not in known:
        raise InputError(f"Unknown preset {name!r}; choose one of default, {', '.join(known)}.")
    return [] if name == "default" else [f"presets/{name}.json"]
