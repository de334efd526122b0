# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Command line: ``python -m scripts register MOVING FIXED --output_dir OUT``; installed, ``samreg register ...``."""

from __future__ import annotations

import json
import logging.config
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

if not __package__:  # started as ``python PATH/scripts``, from any folder
    import runpy

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    runpy.run_module("scripts", run_name="__main__", alter_sys=True)
    sys.exit()

from .common.bundle import CONFIGS, NAME
from .common.errors import InputError
from .verbs.command_line import COMMANDS, MODULES, module_of, parse
from .workflow.outcome import INTERRUPTED, ExitCode, as_program, quiet_engines, unwrapped

PROGRAM = "python -m scripts" if NAME == "scripts" else NAME


def main() -> None:
    """Runs the command; bad input ends it with one sentence and exit code 1."""
    try:
        name, arguments = parse(sys.argv[1:], PROGRAM)
        result = _run(name, arguments)
    except KeyboardInterrupt:
        sys.stderr.write(f"{INTERRUPTED}\n")
        sys.exit(ExitCode.INTERRUPTED)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(ExitCode.BAD_INPUT)
    sys.stdout.write(_shown(name, result))
    if isinstance(result, dict) and result.get("failed"):
        sys.exit(ExitCode.SOME_FAILED)


def _run(name: str, arguments: dict[str, Any]) -> Any:
    """Loads the command's module, with torch and MONAI, and runs it."""
    if COMMANDS[name] or name in MODULES:
        logging.config.fileConfig(CONFIGS / "logging.conf", disable_existing_loggers=False)
        quiet_engines()
    module = import_module(f".{module_of(name)}", __package__)
    with as_program(), unwrapped():
        return getattr(module, name)(**arguments)


def _shown(name: str, result: Any) -> str:
    """The result of a command as text: a plan, the means of an evaluation, or JSON; runs of a config have their log."""
    if name == "evaluate":
        from .workflow.cohort.summary import summary_lines

        return "\n".join(summary_lines(result)) + "\n"
    if COMMANDS[name] or result is None:
        return result.get("plan", "") if name == "register" else ""
    return json.dumps(result, indent=2) + "\n"


if __name__ == "__main__":
    main()
