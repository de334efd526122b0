"""Fixtures shared by the tests of the commands and of cohorts."""

from tests.workflow.cohort.conftest import phantoms, undisturbed

__all__ = ["phantoms", "undisturbed"]
