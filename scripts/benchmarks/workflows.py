# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Runs the bundle's configs through MONAI's command, and measures a method again only if it has changed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..common.bundle import BUNDLE
from ..common.errors import InputError
from ..common.fingerprint import fingerprint
from ..common.weights import read_checkpoint
from ..workflow.options import check_options
from .tables import read_metrics

CONFIGS = BUNDLE / "configs"


def run_configs(name: str, folder: Path, configs: Sequence[str], options: Mapping[str, Any]) -> None:
    """Runs a workflow through MONAI's own command; its arguments and output are kept in ``folder`` under this name.

    Args:
        name: of the files.
        folder: created if missing.
        configs: file names in ``configs/``, later ones over earlier ones.
        options: values by key of the config.

    Raises:
        InputError: an option that the configs do not know, or the run failed; names its log.
    """
    files = [str(CONFIGS / config) for config in configs]
    check_options(files, options)
    folder.mkdir(parents=True, exist_ok=True)
    arguments, log = folder / f"{name}.json", folder / f"{name}.log"
    # In a file, because MONAI's command line drops options that are null.
    places = {"meta_file": str(CONFIGS / "metadata.json"), "logging_file": str(CONFIGS / "logging.conf")}
    text = json.dumps({"config_file": files, "bundle_root": str(BUNDLE), **places, **options}, indent=2)
    arguments.write_text(text, encoding="utf-8")
    words = [sys.executable, "-m", "monai.bundle", "run", "--args_file", str(arguments)]
    with log.open("a", encoding="utf-8") as stream:
        done = subprocess.run(words, cwd=BUNDLE, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise InputError(f"The run in {folder} ended with exit code {done.returncode}; {log} says why.")


def stamp_of(configs: Sequence[str], settings: Any, weights: Sequence[str | Path]) -> str:
    """A hash of everything but the code that decides the numbers of a method.

    Args:
        configs: file names in ``configs/``.
        settings: further settings, see :func:`scripts.common.fingerprint.fingerprint`.
        weights: files of weights.
    """
    content = ConfigParser.load_config_files([str(CONFIGS / config) for config in configs])
    return fingerprint(content, settings, [read_checkpoint(path) for path in weights])


def kept(folder: Path, stamp: str, make: Callable[[], None]) -> list[dict[str, Any]]:
    """The numbers of every pair in ``metrics.csv``, which is written only if there is none with this stamp.

    Args:
        folder: of the table; delete it to measure again.
        stamp: of the method.
        make: writes the table.
    """
    path, table = folder / "stamp.txt", folder / "metrics.csv"
    if not (table.exists() and path.exists() and path.read_text(encoding="utf-8") == stamp):
        path.unlink(missing_ok=True)
        make()
        path.write_text(stamp, encoding="utf-8")
    return read_metrics(table)


def measured(
    folder: Path, configs: Sequence[str], options: Mapping[str, Any], weights: Sequence[str | Path]
) -> list[dict[str, Any]]:
    """The numbers of every pair from a workflow with ``evaluate.json``, see :func:`kept`.

    Args:
        folder: for the table and the logs.
        configs: file names in ``configs/``.
        options: values by key of the config.
        weights: files that decide the result.
    """
    values = {**options, "output_dir": str(folder), "progress": False}
    return kept(folder, stamp_of(configs, options, weights), lambda: run_configs("measuring", folder, configs, values))
