"""Fixtures shared by the tests of workflows and of cohorts."""

import pytest

from scripts.workflow.outputs import SaveRegistration
from tests.workflow.cohort.conftest import phantoms, undisturbed
from tests.workflow.registered import prepared

__all__ = ["phantoms", "undisturbed"]


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The folder of a result, the data it was written from, and what the writer returned."""
    folder = tmp_path_factory.mktemp("run")
    data = prepared(folder)
    out = SaveRegistration(str(folder / "out"), {"seed": 3})(data)
    return folder / "out", data, out
