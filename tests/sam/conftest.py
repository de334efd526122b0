"""The fixtures of the tests of Segment Anything models."""

from tests.sam_models import bundled, lite, picture, tiny

__all__ = ["bundled", "lite", "picture", "tiny"]
