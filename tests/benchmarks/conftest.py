"""The models and pictures of the tests of SAM."""

from tests.sam.conftest import bundled, picture

__all__ = ["bundled", "picture"]
