"""Fixtures that all tests of workflows share with those of cohorts."""

from tests.workflow.cohort.conftest import phantoms, undisturbed

__all__ = ["phantoms", "undisturbed"]
