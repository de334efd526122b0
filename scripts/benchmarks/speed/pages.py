# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Size and opening time of report pages: ``python -m scripts.benchmarks.speed.pages``.

Without ``--result`` the page is that of a large synthetic pair of noise, which compresses badly. The time to open needs
playwright and a browser on the path; it ends when the viewer has drawn all volumes.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import fire

from ...workflow.outputs import SaveRegistration
from .writing import synthetic

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "msedge")
# Without a graphics card the processor draws.
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


def main(
    result: str | None = None,
    shape: Sequence[int] = (512, 512, 150),
    spacing: Sequence[float] = (0.8, 0.8, 2.0),
    regions: int = 30,
    opened: int = 3,
) -> None:
    """Measures one page and prints one JSON line.

    Args:
        result: folder of a registration; None makes a synthetic one.
        shape: voxels of both synthetic images.
        spacing: mm.
        regions: number of region pairs.
        opened: how often the page is opened; the shortest time counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        numbers: dict = {} if result else {"shape": list(shape), "regions": regions}
        if result is None:
            pair, found, image = synthetic(shape, spacing, regions)
            began = time.perf_counter()
            SaveRegistration(folder, keep=["report"])({"image": image, "pair": pair, "pred": found})
            numbers["write_seconds"] = round(time.perf_counter() - began, 1)
        page = Path(result or folder) / "report.html"
        numbers["page_mb"] = round(page.stat().st_size / 1e6, 2)
        numbers["open_seconds"] = min(times) if (times := opening_seconds(page, opened)) else None
    sys.stdout.write(json.dumps(numbers) + "\n")


def opening_seconds(page: Path, times: int) -> list[float]:
    """Seconds until the viewer of a page is ready, of each of several visits; empty without a browser."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if not times or browser is None or find_spec("playwright") is None:
        return []
    from playwright.sync_api import sync_playwright

    seconds = []
    with sync_playwright() as p:
        started = p.chromium.launch(executable_path=browser, args=FLAGS)
        for _ in range(times):
            tab = started.new_context(offline=True).new_page()
            began = time.perf_counter()
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("body[data-viewer=ready]", state="attached", timeout=120_000)
            seconds.append(round(time.perf_counter() - began, 2))
            tab.context.close()
        started.close()
    return seconds


if __name__ == "__main__":
    fire.Fire(main)
