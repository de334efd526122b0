# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The models to compare, each with the settings that registration uses for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from segment_anything.modeling import Sam

from ...common.bundle import BUNDLE
from ...common.errors import InputError
from ...roi.region_filter import RegionFilter
from ...sam.build import SAMS
from ...sam.everything import EverythingMode
from ...workflow.options import check_options
from ...workflow.outcome import unwrapped
from ...workflow.run import with_sam_overlay

PRESETS = {"heart": ["presets/cardiac_mr.json"], "abdomen": ["presets/abdomen_ct.json"], "other": []}


class Model:
    """A Segment Anything model with everything mode and filter for each kind of picture.

    Args:
        name: short, for the head of a column.
        checkpoint: weights of the compact SAM, or the name of another SAM.
        options: values by key of configs/samreg.json, which override those of the presets.

    Attributes:
        sam: the model on its device.
        everything: everything mode by kind of picture: "heart", "abdomen", "other".
        keep: filter of regions by kind of picture.
    """

    def __init__(self, name: str, checkpoint: str, options: dict[str, Any]) -> None:
        self.name = name
        chosen = {"sam": checkpoint} if checkpoint in SAMS else {"checkpoint": checkpoint}
        options = {**chosen, **options}
        self.everything: dict[str, EverythingMode] = {}
        self.keep: dict[str, RegionFilter] = {}
        for kind, overlays in PRESETS.items():
            files = [str(BUNDLE / "configs" / f) for f in with_sam_overlay(("samreg.json", *overlays), options)]
            check_options(files, options)
            parser = ConfigParser()
            parser.read_config(files)
            parser.update({"bundle_root": str(BUNDLE), **options})
            with unwrapped():
                self.everything[kind] = parser.get_parsed_content("everything")
                self.keep[kind] = parser.get_parsed_content("region_filter")
        with unwrapped():
            self.sam: Sam = parser.get_parsed_content("network")


def load_models(weights: str | Sequence[str], options: dict[str, Any]) -> list[Model]:
    """One model per file.

    Args:
        weights: files, or names of other SAMs, as one text with commas or as a list.
        options: see :class:`Model`.

    Raises:
        InputError: no file is named, or one cannot be used.
    """
    paths = [p.strip() for p in weights.split(",")] if isinstance(weights, str) else [str(p) for p in weights]
    if not all(paths):
        raise InputError(f"The weights to measure are files, one or more with commas between, got {weights!r}.")
    names = [Path(p).name for p in paths]
    names = names if len(set(names)) == len(names) else paths
    return [Model(name, path, options) for name, path in zip(names, paths)]
