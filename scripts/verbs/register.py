# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``register``: two images, or all pairs of a list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..common.bundle import CONFIGS
from ..common.errors import InputError
from ..workflow.cohort.pairs import read_entries
from ..workflow.cohort.run import finish_cohort
from ..workflow.cohort.scheduler import run_on_scheduler
from ..workflow.dicom import check_dicom, check_dicom_folder, write_dicom
from ..workflow.method import AUTO, METHODS, choose
from ..workflow.options import check_options, defaults
from ..workflow.outcome import ending
from ..workflow.plan import plan_text
from ..workflow.run import config_paths, run_bundle

PRESETS = sorted({path.stem for path in (CONFIGS / "presets").rglob("*.json")})  # of any method
LISTS = {"samreg": ["cohort.json"], "network": ["cohort.json", "cohort_network.json"]}


def register(
    moving: str | Path | None = None,
    fixed: str | Path | None = None,
    output_dir: str | Path | None = None,
    *,
    pairs: str | Path | None = None,
    method: str = "samreg",
    preset: str = "default",
    dry_run: bool = False,
    dicom: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Registers two images, or all pairs of a list, and writes the results.

    Args:
        moving: image to move: NIfTI, NRRD, MetaImage, PNG, JPEG, TIFF, or a folder with a DICOM series.
        fixed: image that stays in place.
        output_dir: folder of the results.
        pairs: instead of two images: a CSV or JSON list of pairs, see docs/cohorts.md.
        method: "samreg" pairs regions and needs no training; "network" is the trained cross-attention network; "auto"
            takes the network for images like those it was trained on, and says why.
        preset: settings for a kind of image, the name of a file in configs/presets or configs/presets/network:
            cardiac_mr, abdomen_ct, retina, prostate_mr; explicit options win.
        dry_run: only show what a run would read, do and write.
        dicom: for two DICOM series, also write the moved series, the paired regions and the field as DICOM objects.
        options: any key of configs/samreg.json, e.g. device="cpu", init="affine", sam="vit_b", image_weight=1; with
            method="network" of configs/inference.json, e.g. instance_steps=30.

    Returns:
        the content of correspondence.json, whose "pairs" are empty when no regions matched; for a list that of
        summary.json; for a dry run {"plan": text}.

    Raises:
        InputError: the input cannot be used.
    """
    configs, values = resolve(moving, fixed, output_dir, pairs=pairs, method=method, preset=preset, **options)
    if dry_run:
        return {"plan": plan_text(configs, values)}
    if dicom:  # what it needs is checked before any work
        if pairs is not None:
            raise InputError("--dicom is for two series, not for a list of pairs.")
        check_dicom(values["moving"], values["fixed"])
        check_dicom_folder(values["output_dir"])
    if values.get("scheduler"):
        with ending():
            finish_cohort(run_on_scheduler(configs, values))
    else:
        run_bundle(configs, values)
    if dicom:
        write_dicom(values["output_dir"], values["moving"], values["fixed"])
    name = "summary.json" if pairs else "correspondence.json"
    return json.loads((Path(values["output_dir"]) / name).read_text(encoding="utf-8"))


def resolve(
    moving: str | None = None,
    fixed: str | None = None,
    output_dir: str | None = None,
    *,
    pairs: str | None = None,
    method: str = "samreg",
    preset: str = "default",
    **options: Any,
) -> tuple[list[str], dict[str, Any]]:
    """Config files and values of a call of :func:`register`; :class:`InputError` for arguments that contradict."""
    if method not in (*METHODS, AUTO):
        raise InputError(f"Unknown method {method!r}; choose one of {', '.join(METHODS)}, {AUTO}.")
    if pairs is not None and (moving is not None or fixed is not None):
        raise InputError("Give either two images or --pairs with a list of pairs, not both.")
    if output_dir is None:
        raise InputError("No --output_dir was given; name the folder of the results.")
    overlays = preset_files(preset, "samreg" if method == AUTO else method)
    values = {**options, "output_dir": str(output_dir)}
    if pairs is not None:
        values["pairs"] = str(pairs)
    else:
        for role, path in (("moving", moving), ("fixed", fixed)):
            if path is None:
                raise InputError(f"No {role} image was given; name two images, or a list of pairs with --pairs.")
            values[role] = str(path)
    known = {name: defaults(config, *LISTS[name]) for name, config in METHODS.items()}
    if method == AUTO:
        check_options(config_paths([*METHODS.values(), *LISTS["network"]]), options)
        items = [values] if pairs is None else [e.item for e in read_entries(pairs, known["network"]["columns"])]
        choice = choose(items, preset, options, known)
        method, values["method#reason"] = choice.method, choice.reason
        overlays = preset_files(preset, method)
    [other] = METHODS.keys() - {method}
    for option in (key.replace("::", "#").partition("#")[0] for key in options):
        if option in known[other] and option not in known[method]:
            raise InputError(f"--{option} is an option of --method {other}, not of {method}; name it, or leave it out.")
    return [METHODS[method], *overlays, *(LISTS[method] if pairs is not None else [])], values


def preset_files(name: str, method: str) -> list[str]:
    """The config overlay of a preset of a method, none for "default"; raises :class:`InputError` if there is none."""
    folder = "presets" if method == "samreg" else f"presets/{method}"
    known = sorted(p.stem for p in (CONFIGS / folder).glob("*.json"))
    if name != "default" and name not in known:
        raise InputError(f"The method {method} has no preset {name!r}; choose one of default, {', '.join(known)}.")
    return [] if name == "default" else [f"{folder}/{name}.json"]
