# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Running the bundle's configs by MONAI's command, and measuring a method no more often than it changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from scripts.benchmarks.tables import read_metrics
from scripts.engine.run import BUNDLE, check_options
from scripts.errors import InputError
from scripts.fingerprint import fingerprint
from scripts.weights import read_checkpoint


def run_configs(name: str, folder: Path, configs: Sequence[str], options: Mapping[str, Any]) -> None:
    """Runs a workflow by MONAI's own command; its arguments and what it says stay in ``folder`` under this name.

    Args:
        name: of the files.
        folder: made if missing.
        configs: file names in ``configs/``, later ones over earlier ones.
        options: values by key of the config.

    Raises:
        InputError: an option that the configs do not know, or the run failed; names its log.
    """
    files = [str(BUNDLE / "configs" / config) for config in configs]
    check_options(files, options)
    folder.mkdir(parents=True, exist_ok=True)
    arguments, log = folder / f"{name}.json", folder / f"{name}.log"
    # In a file, because the command line of MONAI drops options that are null.
    text = json.dumps({"config_file": files, "bundle_root": str(BUNDLE), **options}, indent=2)
    arguments.write_text(text, encoding="utf-8")
    words = [sys.executable, "-m", "monai.bundle", "run", "--args_file", str(arguments)]
    words += ["--logging_file", str(BUNDLE / "configs" / "logging.conf")]
    with log.open("a", encoding="utf-8") as stream:
        done = subprocess.run(words, cwd=BUNDLE, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise InputError(f"The run in {folder} ended with exit code {done.returncode}; {log} says why.")


def measured(
    folder: Path, configs: Sequence[str], options: Mapping[str, Any], weights: Sequence[str | Path]
) -> list[dict[str, Any]]:
    """The numbers of every pair by a measuring workflow, which runs only where nothing has been kept of the same.

    Args:
        folder: for ``metrics.csv`` and the logs.
        configs: with ``evaluate.json`` among them.
        options: values by key of the config.
        weights: files that decide the result.
    """
    content = ConfigParser.load_config_files([str(BUNDLE / "configs" / config) for config in configs])
    stamp = fingerprint(content, options, [read_checkpoint(path) for path in weights])
    kept, table = folder / "stamp.txt", folder / "metrics.csv"
    if not (kept.exists() and table.exists() and kept.read_text(encoding="utf-8") == stamp):
        kept.unlink(missing_ok=True)
        run_configs("measuring", folder, configs, {**options, "output_dir": str(folder)})
        kept.write_text(stamp, encoding="utf-8")
    return read_metrics(table)
