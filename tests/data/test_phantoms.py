"""Phantoms: the true field is true, does not fold, and the same seed gives the same pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.data.phantoms.abdomen import LABELS, abdomen_pair
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.metrics.jacobian import jacobian_determinant
from scripts.metrics.overlap import dice
from scripts.spatial.geometry import Geometry, resample
from scripts.spatial.landmark_files import fixed_to_moving
from tests.conftest import rotation

PAIRS = {
    "heart 3-D": lambda seed: cardiac_pair(seed, (96, 96, 6), (2.0, 2.0, 12.0)),
    "heart 2-D": lambda seed: cardiac_pair(seed, (128, 128), (1.5, 1.5)),
    "abdomen 3-D": lambda seed: abdomen_pair(seed, (80, 60, 50), (4.5, 4.5, 4.5)),
    "abdomen 2-D": lambda seed: abdomen_pair(seed, (160, 120), (2.3, 2.3)),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_true_field_carries_labels_and_landmarks(kind):
    pair = PAIRS[kind](4)
    moving, fixed = Geometry(pair.moving.shape, pair.moving_affine), Geometry(pair.fixed.shape, pair.fixed_affine)
    ddf = torch.from_numpy(pair.ddf)[None]
    assert float(jacobian_determinant(ddf).min()) > 0.05
    values = sorted(set(np.unique(pair.moving_label)) & set(np.unique(pair.fixed_label)) - {0})
    assert len(values) >= 3
    label = torch.from_numpy(pair.moving_label.astype(np.float32))[None]
    truth = torch.from_numpy(pair.fixed_label)
    moved = resample(label, moving, fixed, None, ddf, mode="nearest", fill=0)[0]
    before = dice(resample(label, moving, fixed, mode="nearest", fill=0)[0], truth, values)
    after = dice(moved, truth, values)
    # Small structures lose most to nearest-neighbour rounding.
    assert np.mean(list(after.values())) > 0.88
    assert np.mean(list(after.values())) > np.mean(list(before.values())) + 0.1
    carried = fixed_to_moving(pair.fixed_landmarks, ddf, fixed)
    np.testing.assert_allclose(carried, pair.moving_landmarks, atol=0.02 * max(fixed.spacing))


def test_seed_decides_everything():
    a, b, c = (cardiac_pair(s, (48, 48), (4, 4)) for s in (5, 5, 6))
    np.testing.assert_array_equal(a.moving, b.moving)
    np.testing.assert_array_equal(a.ddf, b.ddf)
    assert not np.array_equal(a.moving_label, c.moving_label)


def test_grids_of_different_size_and_orientation():
    pair = abdomen_pair(
        2,
        (60, 50, 30),
        (6, 6, 8),
        fixed_shape=(48, 40, 40),
        fixed_spacing=(7, 7, 6),
        orientation=rotation((1, 1, 0), 30),
    )
    assert pair.moving.shape == (60, 50, 30)
    assert pair.ddf.shape == (3, 48, 40, 40)
    moving, fixed = Geometry(pair.moving.shape, pair.moving_affine), Geometry(pair.fixed.shape, pair.fixed_affine)
    label = torch.from_numpy(pair.moving_label.astype(np.float32))[None]
    moved = resample(label, moving, fixed, None, torch.from_numpy(pair.ddf)[None], mode="nearest", fill=0)[0]
    assert dice(moved, torch.from_numpy(pair.fixed_label), [LABELS["liver"]])[6] > 0.9


def test_wrong_grid():
    with pytest.raises(ValueError, match=r"shape \(8, 8\), spacing \(1, 1, 1\)"):
        cardiac_pair(0, (8, 8), (1, 1, 1))
