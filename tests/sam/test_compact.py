"""The compact SAM is a segment_anything model within its budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from scripts.sam.build import MODELS
from scripts.sam.compact import CompactEncoder, compact_sam


def test_budget():
    sam = compact_sam()
    assert sum(p.numel() for p in sam.parameters()) <= 8_000_000
    assert (MODELS / "compact_sam.pt").stat().st_size < 16 * 2**20
    state = torch.load(MODELS / "compact_sam.pt", weights_only=True)
    assert all(isinstance(v, torch.Tensor) for v in state.values())


@pytest.mark.parametrize("tokens", [16, 24, 32])
def test_token_grid_is_free(tokens):
    encoder = CompactEncoder(64, tokens, 16, channels=(8, 8, 16, 16), depths=(1, 1, 1, 1), attention_depth=1)
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, 16, tokens, tokens)
    with pytest.raises(ValueError, match="got 250"):
        CompactEncoder(250)


def test_works_with_the_packages_predictor(bundled, picture):
    predictor = SamPredictor(bundled)
    predictor.set_image(picture[0].permute(1, 2, 0).numpy().astype(np.uint8))
    masks, scores, low = predictor.predict(np.array([[120.0, 100.0]]), np.array([1]))
    assert masks.shape == (3, 200, 240)
    assert low.shape == (3, 96, 96)
    assert masks[scores.argmax(), 100, 120]
