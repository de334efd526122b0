# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``correspond``: the region that a point, box or mask marks, in both images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..workflow.run import run_bundle, run_quietly

CONFIGS = ["samreg.json", "correspond.json"]


def correspond(moving: str | Path, fixed: str | Path, output_dir: str | Path, **options: Any) -> dict[str, Any]:
    """Finds the region that a point, box or mask in one image marks, in both images.

    Args:
        moving: first image.
        fixed: second image.
        output_dir: folder of the results.
        options: the prompt (``points`` with ``labels``, ``box``, or ``mask``; ``prompt_image`` and ``points_frame`` say
            where it is), and any other key of configs/samreg.json and configs/correspond.json.

    Returns:
        the content of correspondence.json; "pairs" is empty when no partner was found.

    Raises:
        InputError: the input cannot be used.
    """
    run_quietly(CONFIGS, _values(moving, fixed, output_dir, options))
    return json.loads((Path(output_dir) / "correspondence.json").read_text(encoding="utf-8"))


def command(moving: str, fixed: str, output_dir: str, **options: Any) -> None:
    """The same on the command line, where the exit code tells how the run ended."""
    run_bundle(CONFIGS, _values(moving, fixed, output_dir, options))


def _values(moving: str | Path, fixed: str | Path, output_dir: str | Path, options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "moving": str(moving), "fixed": str(fixed), "output_dir": str(output_dir)}
