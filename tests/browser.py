"""Chromium for tests: a browser, and pages whose errors and requests are listened to."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
in_browser = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")]


@contextmanager
def started():
    """A running browser."""
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield found
        found.close()


def opened(browser, address: str, **options):
    """A page, and the errors that it reports from then on: of its scripts, and requests that leave this machine."""
    context = browser.new_context(viewport={"width": 1320, "height": 1000}, **options)
    page, errors = context.new_page(), []
    ours = ("file:", "data:", "blob:", "about:") if address.startswith("file:") else (address, "data:", "blob:")
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("request", lambda r: errors.append(r.url[:80]) if not r.url.startswith(ours) else None)
    page.goto(address)
    return page, errors
