# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``correspond``: the region that a point, box or mask marks, in both images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..workflow.run import run_bundle


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
    values = {"moving": str(moving), "fixed": str(fixed), "output_dir": str(output_dir)}
    run_bundle(["samreg.json", "correspond.json"], {**options, **values})
    return json.loads((Path(output_dir) / "correspondence.json").read_text(encoding="utf-8"))
