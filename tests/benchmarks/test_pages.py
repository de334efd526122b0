"""The benchmark of report pages measures the page that a registration writes."""

from __future__ import annotations

import json

import pytest

from scripts.benchmarks.speed.pages import main
from tests.browser import BROWSER


def test_size_of_a_page(capsys):
    main(shape=(40, 32, 8), regions=3, opened=0)
    numbers = json.loads(capsys.readouterr().out)
    # The code of the viewer alone takes 1 MB; small volumes add little.
    assert 1 < numbers["page_mb"] < 3 and numbers["open_seconds"] is None


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
def test_a_large_page_is_small_enough_and_opens(capsys):
    main(shape=(256, 256, 75), regions=10, opened=1)
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["page_mb"] < 15 and numbers["open_seconds"] < 30  # 3 s on an idle machine
