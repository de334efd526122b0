# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The plan of ``--dry_run``: what a registration would read, do and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from tqdm import tqdm

from ..common.device import pick_device
from ..common.errors import InputError
from ..common.files import there
from ..correspondence.region_pairs import FILES as REGION_FILES
from ..correspondence.region_pairs import RECORD
from ..data.pair import working_grid
from ..data.pair_rows import FILES
from ..data.reader import PICTURES, Volume, read_volume
from ..report.page import method_text
from ..spatial.files import size_limit
from ..spatial.geometry import grid_text, overlap
from .cohort.case import read_record
from .cohort.pairs import SUMMARIES, Entry, check_replaced, read_entries
from .guard import OUTPUTS
from .options import check_options
from .outcome import unwrapped
from .record import flat_settings
from .run import check_expressions, config_paths, config_values, read_configs, with_sam_overlay

READ = 200  # pairs of a list whose images are read, and failures that are shown


def plan_text(configs: Sequence[str], options: Mapping[str, Any]) -> str:
    """The plan as text: inputs with their grids, outputs, model and settings. Nothing is written.

    An unknown option, an unusable setting, or an image that cannot be read raises :class:`InputError`; in a list,
    images that cannot be read are named in the text instead.
    """
    configs = with_sam_overlay(configs, options)
    check_options(config_paths(configs), options)
    parser = ConfigParser()
    parser.set(read_configs(configs))
    parser.update({**config_values(options), "device": str(pick_device(options.get("device", "auto")))})
    check_expressions(parser, options)
    with unwrapped():
        parser.get_parsed_content("inferer")  # refuses settings that cannot be used; the model is not built
    wanted = {key: parser.get_parsed_content(key) for key in ("overview", "keep", "max_size", "header", "max_image_gb")}
    for key, default in (("dense", True), ("inverse", False), ("confidence", False)):  # the network has none
        wanted[key] = parser.get_parsed_content(key) if key in parser.config else default
    target = Path(options["output_dir"])
    if options.get("pairs"):
        entries = read_entries(options["pairs"], parser.get("columns"))
        check_replaced(entries, target, options["pairs"])
        lines = _cohort_lines(entries, target, wanted)
    else:
        item = {key: options[key] for key in parser.get("dataset#data") if key in options}
        lines = [*pair_lines(item, wanted), f"writes to {target}: {', '.join(output_names(item, wanted))}"]
    model = parser.get_parsed_content("network_def", instantiate=False).get_config()
    lines.append(f"method: {method_text(parser.get_parsed_content('method'))}")
    lines.append(f"configs: {', '.join(configs)}")
    lines.append(f"model: {_words({k: v for k, v in model.items() if not k.startswith('_')})}")
    lines.append(f"settings: {_words(flat_settings(parser.get_parsed_content('parameters')))}")
    lines.append(f"device: {parser.get('device')}")
    return "\n".join(lines) + "\n"


def pair_lines(item: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """A line for every image and label map of a pair, and one for the working grid.

    ``wanted`` has "max_size", "header" and "max_image_gb", as for :class:`scripts.data.pair.LoadPair`.
    """
    volumes: dict[str, Volume] = {}
    lines = []
    for role in ("moving", "fixed"):
        for key in (role, f"{role}_label"):
            if item.get(key):
                frame, label = item.get(f"{role}_frame"), key != role
                with size_limit(wanted["max_image_gb"]):
                    volumes[key] = read_volume(item[key], frame=frame, header=wanted["header"], label=label)
                lines.append(f"{key}: {item[key]}, {grid_text(volumes[key].geometry)}")
        if item.get(f"{role}_landmarks"):
            lines.append(f"{role}_landmarks: {item[f'{role}_landmarks']}")
    moving, fixed = volumes["moving"].geometry, volumes["fixed"].geometry
    if moving.ndim != fixed.ndim:
        raise InputError(
            f"{item['moving']} is {moving.ndim}-D and {item['fixed']} is {fixed.ndim}-D; both must have the same "
            "number of dimensions."
        )
    lines.append(f"working grid: {grid_text(working_grid(fixed, wanted['max_size']))}")
    if not overlap(fixed, moving, np.eye(4)):
        lines.append("the images do not overlap in space: an initial alignment (--init) is needed")
    return lines


def output_names(item: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Files of a pair with matched regions."""
    pictures = [role for role in ("moving", "fixed") if str(item[role]).lower().endswith(PICTURES)]
    names = ["moving_rois.nii.gz", "fixed_rois.nii.gz", *(f"{role}_rois.png" for role in pictures)]
    names += [*REGION_FILES.values(), RECORD]
    if wanted["dense"]:
        extra = [name for key, name in (("inverse", "inverse_ddf"), ("confidence", "confidence")) if wanted[key]]
        names += ["ddf.nii.gz", *(f"{x}.nii.gz" for x in extra), "moved.nii.gz"]
        names += ["moved.png"] if len(pictures) == 2 else []
        names += ["moved_label.nii.gz"] if item.get("moving_label") else []
        names += ["moved_landmarks.csv"] if item.get("fixed_landmarks") else []
    names += ["overview.png", "report.html"] if wanted["overview"] else []
    kept = {RECORD, *(name for key in wanted["keep"] or OUTPUTS for name in OUTPUTS[key])}
    return [name for name in names if name in kept]


def _cohort_lines(entries: Sequence[Entry], target: Path, wanted: Mapping[str, Any]) -> list[str]:
    lines, bad = [], 0
    for number, entry in enumerate(tqdm(entries, desc="reading", unit="pair", leave=False, disable=None)):
        record, error = read_record(target / entry.name), None
        if number < READ:
            try:
                found = pair_lines(entry.item, wanted)
            except InputError as wrong:
                found, error = [], str(wrong)
        else:  # reading every image of a long list would take too long
            found = []
            gone = [entry.item[k] for k in FILES if k in entry.item and not there(entry.item[k])]
            error = f"{gone[0]} does not exist" if gone else None
        if error is not None:
            bad += 1
            found = [f"will fail: {error}"]
        if number < READ or (error is not None and bad <= READ):
            lines.append(f"{entry.name}:" + (f" exists, {record.get('status')}" if record else ""))
            lines += [f"    {line}" for line in found]
    lines.append(f"{len(entries)} pairs" + (f", {bad} of them will fail" if bad else ""))
    if len(entries) > READ:
        lines.append(f"(the images of the first {READ} pairs were read; the others were only checked for existence)")
    names = dict.fromkeys(name for entry in entries for name in output_names(entry.item, wanted))
    folder = ", ".join(["case.json", "case.log", *names])
    return [*lines, f"writes to {target}: {', '.join(SUMMARIES)}, and for each pair a folder with {folder}"]


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
