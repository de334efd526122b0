"""The sound inputs, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from .inputs import make_inputs


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("good"))
