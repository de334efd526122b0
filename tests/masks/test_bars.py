"""The accuracy that the shipped networks must reach."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.benchmarks.models.masks import LEFT_OUT, score
from scripts.masks.bundled import MODELS, BundledNet
from scripts.training.masks import labelled_items


@pytest.mark.slow
def test_cardiac_dice_on_the_validation_patients(real_data):
    assert (MODELS / "cardiac_net.pt").exists()
    source = BundledNet("cardiac")
    items = labelled_items(real_data, "acdc", "validation")
    assert len(items) == 20
    assert np.mean([np.mean(list(score(source, item).dice.values())) for item in items]) >= 0.88


@pytest.mark.slow
def test_abdominal_dice_on_the_validation_subjects(real_data):
    source = BundledNet("abdomen")
    items = labelled_items(real_data, "abdomen_ct", "validation")
    assert len(items) == 6
    scores = [value for item in items for name, value in score(source, item).dice.items() if name != LEFT_OUT]
    assert np.mean(scores) >= 0.76
