# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How much memory this process has used, and how much is available."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in units of 2**20 bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / (1 << 20)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def available_memory_mb(cgroup: Path = CGROUP) -> float:
    """Memory that this process can get without swapping, in units of 2**20 bytes; containers have a limit."""
    available = psutil.virtual_memory().available
    for limit, usage in CGROUP_FILES:
        try:
            free = int((cgroup / limit).read_text()) - int((cgroup / usage).read_text())
        except (OSError, ValueError):  # ValueError: "max", no limit
            continue
        available = min(available, max(free, 0))
    return available / (1 << 20)
