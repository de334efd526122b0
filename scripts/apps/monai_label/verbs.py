# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The commands correspond and masks, called for one request."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...workflow.outcome import unwrapped
from ...workflow.run import run_bundle


def correspond(
    other: str, image: str, folder: Path, points: Sequence, labels: Sequence[int], options: Mapping[str, Any]
) -> None:
    """Finds the region that points of one image mark, in both images.

    Args:
        other: the image to search.
        image: the image with the points.
        folder: for the results.
        points: voxels of ``image``.
        labels: 1 inside the region, 0 outside, for each point.
        options: keys of configs/samreg.json and configs/correspond.json.

    Raises:
        InputError: the points or an option cannot be used, or no region is found.
    """
    prompt = {"prompt_image": "fixed", "points": list(points), "labels": list(labels), "points_frame": "voxel"}
    paths = {"moving": other, "fixed": image, "output_dir": str(folder)}
    with unwrapped(), contextlib.suppress(SystemExit):
        run_bundle(["samreg.json", "correspond.json"], {**paths, **prompt, "overview": False, "seed": 0, **options})


def masks(image: str, names: Sequence[str], folder: Path, source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Segments structures of one image by name.

    Args:
        image: to segment.
        names: of the structures; the i-th gets the value i.
        folder: for the results.
        source: a bundled network.
        options: keys of configs/masks.json.

    Returns:
        The record: "file" in the folder, "labels" by name, "ml" by name.

    Raises:
        InputError: a name that the source does not know, or an image that cannot be used.
    """
    values = {"images": image, "names": list(names), "output_dir": str(folder), "source": source, "cache_dir": None}
    with unwrapped(), contextlib.suppress(SystemExit):
        run_bundle(["masks.json"], {**values, "progress": False, **options})
    record = next(folder.glob("*_masks.json"))
    return json.loads(record.read_text(encoding="utf-8"))
