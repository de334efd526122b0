"""The fixtures of the tests of Segment Anything models."""

from tests.sam_models import bundled, picture, tiny

__all__ = ["bundled", "picture", "tiny"]
