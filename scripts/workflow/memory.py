# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Whether a pair fits into memory, estimated before any work is done."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.transforms import Transform

from ..common.memory import available_memory_mb
from ..data.pair import Pair
from ..spatial.geometry import grid_text

logger = logging.getLogger(__name__)

# Measured with python -m scripts.benchmarks.speed.writing.
FIXED_BYTES, WORKING_BYTES = 24, 60  # per voxel of the fixed and of the working grid, in addition to the loaded images
REGIONS = 30  # assumed before they are known
WORTH_SAYING_MB = 1000


def writing_mb(pair: Pair, regions: int = REGIONS) -> float:
    """Memory that registering and writing a pair needs beyond its images, in units of 2**20 bytes."""
    fixed, working = (int(np.prod(grid.shape)) for grid in (pair.fixed.geometry, pair.working))
    return (FIXED_BYTES * fixed + (WORKING_BYTES + 2 * regions) * working) / 2**20


class CheckMemory(Transform):
    """Logs how much memory a large pair needs, and adds a sentence to "warnings" if less is available."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        pair: Pair = data["pair"]
        needed, available = writing_mb(pair), available_memory_mb()
        text = f"{pair.fixed.path} has {grid_text(pair.fixed.geometry)}; its result needs about {needed / 1024:.1f} GB"
        warnings = list(data.get("warnings", ()))
        if needed > available:
            warnings.append(
                f"{text}, and {available / 1024:.1f} GB is available, so the process may be stopped by the system; "
                "crop or downsample the fixed image, or lower --max_size."
            )
        elif needed > WORTH_SAYING_MB:
            logger.info("%s of memory", text)
        return {**data, "warnings": warnings}
