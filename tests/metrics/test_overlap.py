"""Overlap and distances with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import center_of_mass

from scripts.metrics.overlap import centroid_error, dice, hd95, target_registration_error


def box(shape, low, high, value=1) -> torch.Tensor:
    label = torch.zeros(shape, dtype=torch.int64)
    label[tuple(slice(a, b) for a, b in zip(low, high))] = value
    return label


def test_dice_counts_voxels():
    a, b = box((10, 10), (0, 0), (4, 4)), box((10, 10), (2, 0), (6, 4))
    scores = dice(a, b, [1, 2])
    assert scores[1] == pytest.approx(2 * 8 / 32)
    assert math.isnan(scores[2])
    assert dice(a, a, [1])[1] == 1
    assert dice(a, torch.zeros_like(a), [1])[1] == 0


def test_hd95_of_a_shift_is_the_shift_in_mm():
    a, b = box((30, 20, 12), (5, 5, 3), (15, 15, 9)), box((30, 20, 12), (9, 5, 3), (19, 15, 9))
    assert hd95(a, b, [1], (2.0, 1.0, 3.0))[1] == pytest.approx(8.0)
    assert hd95(a, a, [1], (2.0, 1.0, 3.0))[1] == 0
    assert math.isnan(hd95(a, torch.zeros_like(a), [1], (1, 1, 1))[1])


def test_centroid_error_equals_scipy():
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.integers(0, 3, (9, 8, 7))) for _ in range(2))
    spacing = (2.0, 1.0, 3.5)
    centres = [np.array(center_of_mass(np.ones(x.shape), x.numpy(), [1, 2])) for x in (a, b)]
    expected = np.linalg.norm((centres[0] - centres[1]) * spacing, axis=1)
    found = centroid_error(a, b, [1, 2, 5], spacing)
    np.testing.assert_allclose([found[1], found[2]], expected)
    assert math.isnan(found[5])


def test_landmark_error():
    a = np.zeros((2, 3))
    b = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    np.testing.assert_allclose(target_registration_error(a, b), [5, 2])
    with pytest.raises(ValueError, match="2 fixed and 1 moving"):
        target_registration_error(a, b[:1])
