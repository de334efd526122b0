"""Chamfer contour loss: scipy as oracle, known shifts, gradients through the field."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from scripts.losses.contour import chamfer, contour_loss, contour_points


def square(shift=(0, 0), size=24) -> torch.Tensor:
    labels = torch.zeros(size, size)
    labels[6 + shift[0] : 14 + shift[0], 7 + shift[1] : 17 + shift[1]] = 1
    return labels


@pytest.mark.parametrize("shape", [(18, 21), (9, 10, 8)])
def test_contour_is_what_an_erosion_takes_away(shape):
    mask = np.random.default_rng(0).random(shape) > 0.2
    expected = mask & ~binary_erosion(mask, border_value=1)
    found = contour_points(torch.from_numpy(mask)).numpy()
    np.testing.assert_array_equal(found, np.argwhere(expected))


def test_border_of_the_image_is_no_contour_and_points_are_bounded():
    assert len(contour_points(torch.ones(5, 5, dtype=torch.bool))) == 0
    assert len(contour_points(torch.zeros(5, 5, dtype=torch.bool))) == 0
    points = contour_points(square() > 0, 7)
    assert len({tuple(p) for p in points.tolist()}) == 7


def test_chamfer_equals_nearest_neighbours_of_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(55, 3))
    expected = (cKDTree(b).query(a)[0] ** 2).mean() + (cKDTree(a).query(b)[0] ** 2).mean()
    assert float(chamfer(torch.from_numpy(a), torch.from_numpy(b))) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="got 0 and 2"):
        chamfer(torch.zeros(0, 2), torch.zeros(2, 2))


def test_shift_of_two_points_is_known():
    moving, fixed = torch.zeros(12, 9), torch.zeros(12, 9)
    moving[2, 4], fixed[6, 4] = 1, 1
    ddf = torch.zeros(1, 2, 12, 9)
    assert float(contour_loss(ddf, moving, fixed, 1)) == pytest.approx(2 * 4**2)
    assert float(contour_loss(ddf, moving, fixed, 1, (1.5, 3.0))) == pytest.approx(2 * 6**2)
    ddf[:, 0] = -4  # pull: fixed row 6 comes from moving row 2
    assert float(contour_loss(ddf, moving, fixed, 1, (1.5, 3.0))) == pytest.approx(0, abs=1e-9)


def test_structures_are_compared_one_by_one_and_missing_ones_left_out():
    moving, fixed = square(), square((2, 0))
    alone = contour_loss(torch.zeros(1, 2, 24, 24), moving, fixed, 1)
    assert 0 < float(alone) <= 2 * 4
    moving[20:22, 2:4] = 2
    fixed[20:22, 2:4] = 2
    moving[20:22, 8:10] = 3
    both = contour_loss(torch.zeros(1, 2, 24, 24), moving, fixed, 3)
    assert float(both) == pytest.approx(float(alone) / 2)
    assert float(contour_loss(torch.zeros(1, 2, 24, 24), moving * 0, fixed, 3)) == 0


def test_descent_on_the_field_finds_the_shift():
    moving, fixed = square((-3, 1)), square()
    shift = torch.zeros(1, 2, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = contour_loss(shift.expand(1, 2, 24, 24), moving, fixed, 1)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]
    torch.testing.assert_close(shift.detach().flatten(), torch.tensor([-3.0, 1.0]), atol=0.3, rtol=0)


def test_gradcheck():
    ddf = (torch.rand(1, 2, 24, 24, dtype=torch.float64) * 0.3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda u: contour_loss(u, square(), square((1, 2)), 1, (1.0, 2.0)), ddf, fast_mode=True
    )
