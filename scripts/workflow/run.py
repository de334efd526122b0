# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Running the bundle's configs from Python: the single entry for the commands and for other programs."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from ..common.bundle import BUNDLE, CONFIGS, own_names
from ..common.device import pick_device
from ..common.errors import InputError
from ..common.threads import same_threads_after
from .guard import sole_writer
from .options import EXPRESSIONS, PATHS, check_options, is_expression, sam_overlay
from .outcome import ending, unwrapped

# MONAI reports that a workflow leaves logging alone, as a library should.
logging.getLogger("monai.bundle.workflows").addFilter(lambda record: "skipping logging" not in str(record.msg))
SPECIAL = "#@%$"  # have a meaning in a config


def config_paths(configs: Sequence[str]) -> list[str]:
    """Paths of files in ``configs/``."""
    return [str(CONFIGS / name) for name in configs]


def read_configs(configs: Sequence[str]) -> dict[str, Any]:
    """Content of files in ``configs/``, later ones over earlier ones, with this package's own name in its targets."""
    return own_names(ConfigParser.load_config_files(config_paths(configs)))


def make_workflow(configs: Sequence[str], options: Mapping[str, Any]) -> ConfigWorkflow:
    """A workflow with some of its values replaced, not yet run; :class:`InputError` for options that cannot be used.

    Args:
        configs: file names in ``configs/``, later ones over earlier ones.
        options: values by key of the config; ``device`` may be "auto".
    """
    configs = with_sam_overlay(configs, options)
    check_options(config_paths(configs), options)
    values = config_values(options)
    if "device" in values:
        values["device"] = f"$torch.device('{pick_device(values['device'])}')"
    with warnings.catch_warnings():
        # MONAI warns at every start that a config runs code; this config is the bundle's own.
        warnings.filterwarnings("ignore", category=UserWarning, module="monai.bundle")
        workflow = ConfigWorkflow(
            config_file=config_paths(configs),
            workflow_type="inference",
            meta_file=str(CONFIGS / "metadata.json"),
            logging_file=False,  # logging belongs to the program
            **values,
        )
        workflow.parser.set(own_names(workflow.parser.get()))
    check_expressions(workflow.parser, options)
    return workflow


def check_expressions(parser: ConfigParser, options: Mapping[str, Any]) -> None:
    """Raises :class:`InputError` for an option that is an expression of the config language and cannot be evaluated."""
    for key, value in options.items():
        if key not in ("bundle_root", "device", *PATHS) and is_expression(value):
            try:
                parser.get_parsed_content(key.replace("::", "#"))
            except Exception as error:  # an expression can raise anything
                text = str(error.__cause__ or error if value.startswith("$") else error).rstrip(".")
                raise InputError(
                    f"--{key} {value!r} cannot be evaluated ({text}); values that begin with {', '.join(EXPRESSIONS)} "
                    "are expressions of the config language."
                ) from error


def run_bundle(configs: Sequence[str], options: Mapping[str, Any]) -> ConfigWorkflow:
    """Makes a workflow, see :func:`make_workflow`, and runs it as the only writer of its output folder.

    The parts of the finished workflow are attributes, e.g. ``workflow.evaluator.state.output``.

    Raises:
        InputError: the input cannot be used, or another run writes into the folder.
        SystemExit: in a program, see :func:`scripts.workflow.outcome.ending`.
    """
    # A cohort locks its folder itself, because shards share it.
    alone = "output_dir" in options and "cohort.json" not in configs
    with unwrapped(), same_threads_after(), sole_writer(options["output_dir"]) if alone else contextlib.nullcontext():
        workflow = make_workflow(configs, options)
        with ending(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="monai.bundle")
            workflow.initialize()
            workflow.run()
            workflow.finalize()
    return workflow


def with_sam_overlay(configs: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """The configs with the overlay of the chosen SAM after ``samreg.json``, if there is one; presets come later."""
    overlay = sam_overlay(options.get("sam"))
    if overlay is None or "samreg.json" not in configs or overlay in configs:
        return list(configs)
    place = list(configs).index("samreg.json") + 1
    return [*configs[:place], overlay, *configs[place:]]


def config_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options and the root of the bundle as a config takes them, with file names escaped."""
    values = {"bundle_root": str(BUNDLE), **options}
    return {k: literal(v) if k in ("bundle_root", *PATHS) and isinstance(v, str) else v for k, v in values.items()}


def literal(text: str) -> str:
    """An expression that a config reads as this text, even if it contains characters of the config language."""
    if not any(c in SPECIAL for c in text):
        return text
    return "$" + "".join(f"\\x{ord(c):02x}" if c in SPECIAL else c for c in repr(text))
