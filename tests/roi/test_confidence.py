"""Confidence: low where the field contradicts the search, and where nothing can be told."""

from __future__ import annotations

import pytest
import torch

from scripts.common.errors import InputError
from scripts.roi.confidence import confidence
from scripts.roi.dense import DenseSettings, roi_to_dense
from scripts.roi.matcher import Matcher
from scripts.roi.region_filter import RegionFilter
from scripts.roi.registration import ROIRegistration
from scripts.roi.staged_search import Found
from scripts.sam.everything import EverythingMode
from scripts.spatial.warp import warp
from tests.roi.test_discrete import texture, wave


def test_formula():
    shift = torch.zeros(1, 2, 8, 6)
    shift[:, 0] = 2.0
    found = Found(shift, -shift, torch.full((1, 1, 4, 3), 0.25))
    torch.testing.assert_close(confidence(shift, found, (1.5, 1.0), 3.0), torch.full((1, 1, 8, 6), 0.75))
    # 2 voxels of 1.5 mm off, the tolerance: one half of that
    torch.testing.assert_close(confidence(shift * 2, found, (1.5, 1.0), 3.0), torch.full((1, 1, 8, 6), 0.375))


def test_a_flat_half_and_a_strange_object_are_doubtful():
    shape = (64, 64)
    moving = texture(shape, sigma=1.5)
    fixed = warp(moving[None], wave(shape, 3.0))[0]
    for image in (moving, fixed):
        image[:, :, :24] = 0.5
    none = torch.zeros(0, *shape, dtype=torch.uint8)
    settings = DenseSettings(discrete=True, image_weight=1000.0, levels=1, steps=10)
    sure = roi_to_dense(none, none, (1, 1), settings, images=(moving, fixed), measured=True).confidence[0, 0]
    assert sure.shape == shape
    assert sure.min() >= 0
    assert sure.max() <= 1
    assert sure[8:-8, 36:-8].mean() > 1.5 * sure[8:-8, 4:14].mean()
    changed = fixed.clone()
    changed[:, 24:40, 40:56] = texture((16, 16), seed=9, sigma=1.5)
    other = roi_to_dense(none, none, (1, 1), settings, images=(moving, changed), measured=True).confidence[0, 0]
    assert other[28:36, 44:52].mean() < 0.8 * sure[28:36, 44:52].mean()


def test_confidence_needs_the_search():
    for settings, dense in ((DenseSettings(discrete=False), True), (DenseSettings(discrete=True), False)):
        with pytest.raises(InputError, match="--discrete True"):
            ROIRegistration(EverythingMode(), RegionFilter(), settings, Matcher(), dense=dense, confidence=True)
