# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Running the bundle's configs from Python: the one way in for the command line and for other programs."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle import run as monai_run

from ..common.device import pick_device
from ..common.errors import InputError
from .guard import sole_writer

BUNDLE = Path(__file__).resolve().parents[2]
# Options that name files: they are text, never an expression of MONAI's config language or a Python literal.
PATHS = (
    "moving", "fixed", "moving_label", "fixed_label", "moving_mask", "fixed_mask", "moving_landmarks",
    "fixed_landmarks", "mask", "output_dir", "pairs", "images", "init", "checkpoint", "cache_dir", "dataset_dir",
)  # fmt: skip
SPECIAL = "#@%$"  # have a meaning in a config


def run_bundle(configs: Sequence[str], options: Mapping[str, Any]) -> ConfigWorkflow:
    """Makes a workflow, see :func:`make_workflow`, and runs it while no other process may write into its folder.

    Returns:
        the finished workflow; its parts are attributes, e.g. ``workflow.evaluator.state.output``.
    """
    # A cohort locks its folder itself, because shards share it.
    alone = "output_dir" in options and "cohort.json" not in configs
    lock = sole_writer(options["output_dir"]) if alone else contextlib.nullcontext()
    with lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="monai.bundle")
        workflow = make_workflow(configs, options)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return workflow


def make_workflow(configs: Sequence[str], options: Mapping[str, Any]) -> ConfigWorkflow:
    """A workflow with some of its values replaced, not yet run.

    Args:
        configs: file names in ``configs/``, later ones over earlier ones.
        options: values by key of the config; ``device`` may be "auto".

    Raises:
        InputError: an option that the configs do not have; names the nearest ones.
    """
    files = [str(BUNDLE / "configs" / name) for name in with_sam_overlay(configs, options)]
    check_options(files, options)
    values = config_values(options)
    if "device" in values:
        values["device"] = f"$torch.device('{pick_device(values['device'])}')"
    with warnings.catch_warnings():
        # MONAI warns at every start that a config runs code; this config is the bundle's own.
        warnings.filterwarnings("ignore", category=UserWarning, module="monai.bundle")
        return ConfigWorkflow(
            config_file=files,
            workflow_type="inference",
            meta_file=str(BUNDLE / "configs" / "metadata.json"),
            logging_file=str(BUNDLE / "configs" / "logging.conf"),
            **values,
        )


def with_sam_overlay(configs: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """The configs with the overlay of the chosen SAM after ``samreg.json``, if there is one; presets come later."""
    overlay = sam_overlay(options.get("sam"))
    if overlay is None or "samreg.json" not in configs or overlay in configs:
        return list(configs)
    place = list(configs).index("samreg.json") + 1
    return [*configs[:place], overlay, *configs[place:]]


def sam_overlay(name: Any) -> str | None:
    """The overlay in ``configs/`` with the settings of a SAM, or None where there is none."""
    overlay = f"sam/{name}.json"
    return overlay if (BUNDLE / "configs" / overlay).is_file() else None


def config_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options and the root of the bundle as a config takes them: a file is called what it is called."""
    values = {"bundle_root": str(BUNDLE), **options}
    return {k: literal(v) if k in ("bundle_root", *PATHS) and isinstance(v, str) else v for k, v in values.items()}


def literal(text: str) -> str:
    """What a config reads as this text, whatever characters of the config language it holds."""
    if not any(c in SPECIAL for c in text):
        return text
    return "$" + "".join(f"\\x{ord(c):02x}" if c in SPECIAL else c for c in repr(text))


def check_options(files: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raises :class:`InputError` for options that the config files do not know, and for words where they have a number.

    MONAI adds unknown keys to the config without a word, and a mistyped option would do nothing.
    """
    known = ConfigParser.load_config_files(list(files))
    for key, value in options.items():
        top = key.replace("::", "#").split("#")[0]
        if top not in known:
            raise no_option(key, known)
        if top == key and isinstance(known[key], bool):
            check_switch(key, value)
        elif top == key and isinstance(known[key], (int, float)):
            check_number(key, value)


def no_option(key: str, known: Iterable[str]) -> InputError:
    """The error for an option that does not exist, with the nearest ones that do."""
    near = difflib.get_close_matches(key.replace("::", "#").split("#")[0], known, n=3)
    hint = f"; did you mean {' or '.join('--' + n for n in near)}?" if near else "."
    return InputError(f"There is no option --{key}{hint}")


def check_switch(name: str, value: Any) -> None:
    """Raises :class:`InputError` where an option that is on or off has another value: any word would count as on."""
    if not isinstance(value, bool) and not str(value).startswith(("$", "@")):  # expressions of a config
        raise InputError(f"--{name} must be True or False, got {value!r}.")


def check_number(name: str, value: Any) -> None:
    """Raises :class:`InputError` where an option that is a number has a value of another kind."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number and value is not None and not str(value).startswith(("$", "@")):
        raise InputError(f"--{name} must be a number, got {value!r}.")


def check_command_line(words: Sequence[str]) -> None:
    """Raises :class:`InputError` for what :func:`check_options` refuses, among the words of MONAI's command ``run``.

    Args:
        words: as the shell gives them, after ``run``.
    """
    options: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], "--"]):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals:
                value = "True" if following.startswith("--") else following
            options[name] = DefaultParseValue(value)
    files = options.pop("config_file", None)
    if files is None or "args_file" in options:  # then MONAI knows more than the command line says
        return
    own = {*inspect.signature(monai_run).parameters, "workflow_name", "workflow_type"}
    files = [files] if isinstance(files, str) else files
    check_options(files, {k: v for k, v in options.items() if k not in own})
    overlay = sam_overlay(options.get("sam"))
    named = {Path(file).name for file in files}
    if overlay is not None and "samreg.json" in named and Path(overlay).name not in named:
        raise InputError(
            f"--sam {options['sam']} needs its own settings: add 'configs/{overlay}' to --config_file after "
            "'configs/samreg.json'."
        )
