"""Chamfer contour loss: scipy as oracle, known shifts and scales, gradients through the field."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from scripts.losses.contour import Contour, chamfer, contour_axes, crossings, signed_distance, some
from scripts.losses.pair import LossPair


def square(shift=(0, 0), size=24) -> torch.Tensor:
    labels = torch.zeros(size, size)
    labels[6 + shift[0] : 14 + shift[0], 7 + shift[1] : 17 + shift[1]] = 1
    return labels


def disc(radius: float, shape=(64, 64), centre=31.6) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(float(s)) for s in shape[:2]], indexing="ij")
    inside = sum((a - centre) ** 2 for a in axes) < radius**2
    return inside.float() if len(shape) == 2 else inside.float()[..., None].repeat(1, 1, shape[2])


def scaling(scale: float, shape=(64, 64), centre=31.6) -> torch.Tensor:
    """The field that pulls an in-plane magnification by ``scale``."""
    axes = torch.meshgrid(*[torch.arange(float(s)) for s in shape], indexing="ij")
    field = [(scale - 1) * (a - centre) if number < 2 else torch.zeros(shape) for number, a in enumerate(axes)]
    return torch.stack(field)[None]


def loss(ddf, moving, fixed, structures=1, spacing=None, max_points=None) -> torch.Tensor:
    pair = LossPair(
        torch.zeros(2, *moving.shape), torch.stack([moving, fixed]), structures, spacing or (1.0,) * moving.ndim
    )
    return Contour(max_points=max_points)(ddf, pair)


def test_some_points_are_a_random_subset_without_repeats():
    points = torch.rand(50, 3)
    assert some(points, None).tolist() == some(points, 50).tolist() == list(range(50))
    drawn = [some(points, 7).tolist() for _ in range(2)]
    assert all(len(set(d)) == 7 and max(d) < 50 for d in drawn) and drawn[0] != drawn[1]


def test_crossings_are_all_faces_between_inside_and_outside():
    mask = np.random.default_rng(0).random((6, 5, 4)) > 0.4
    found = {(*map(int, a), *map(int, b)) for a, b in zip(*crossings(torch.from_numpy(mask), [0, 1, 2]))}
    expected = set()
    for i in np.ndindex(mask.shape):
        for axis in range(3):
            j = tuple(v + (a == axis) for a, v in enumerate(i))
            if j[axis] < mask.shape[axis] and mask[i] != mask[j]:
                expected.add((*i, *j))
    assert found == expected
    assert len(crossings(torch.ones(5, 5, dtype=torch.bool), [0, 1])[0]) == 0


def test_distance_is_linear_across_a_wall_and_stays_in_the_plane_of_a_stack():
    mask = np.zeros((12, 9, 3), bool)
    mask[5:, :, 1] = True
    expected = np.clip(4.5 - np.arange(12), -4, 4)
    np.testing.assert_allclose(signed_distance(mask, [0, 1])[:, 4, 1], expected)
    assert (signed_distance(mask, [0, 1])[..., [0, 2]] == 4).all()
    assert contour_axes((1.5, 1.5, 8.0)) == [0, 1] and contour_axes((2.0, 1.0, 2.4)) == [0, 1, 2]


def test_chamfer_equals_nearest_neighbours_of_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(40, 3)), rng.normal(size=(55, 3))
    expected = (cKDTree(b).query(a)[0] ** 2).mean() + (cKDTree(a).query(b)[0] ** 2).mean()
    assert float(chamfer(torch.from_numpy(a), torch.from_numpy(b))) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="got 0 and 2"):
        chamfer(torch.zeros(0, 2), torch.zeros(2, 2))


def naive(moving, fixed, spacing) -> float:
    """Chamfer distance of face centres, by scipy."""
    sets = []
    for labels in (moving.numpy(), fixed.numpy()):
        points = []
        for axis in range(labels.ndim):
            first = np.argwhere(np.diff(labels, axis=axis) != 0).astype(float)
            first[:, axis] += 0.5
            points.append(first)
        sets.append(np.concatenate(points) * spacing)
    a, b = sets
    return (cKDTree(b).query(a)[0] ** 2).mean() + (cKDTree(a).query(b)[0] ** 2).mean()


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.5, 3.0)])
def test_without_a_field_it_is_the_distance_of_the_outlines_in_mm(spacing):
    moving, fixed = square((-2, 1)), square((1, 0))
    still = torch.zeros(1, 2, 24, 24)
    assert float(loss(still, moving, fixed, 1, spacing)) == pytest.approx(naive(moving, fixed, spacing), rel=1e-5)


def test_the_moved_contour_is_compared_on_the_fixed_grid():
    """The same error in the fixed image costs the same whether the structure has grown or shrunk."""
    values = []
    for moving_radius, fixed_radius in ((20.0, 10.0), (10.0, 20.0)):
        scale = moving_radius / (fixed_radius + 2)
        values.append(float(loss(scaling(scale), disc(moving_radius), disc(fixed_radius))))
    assert values[0] == pytest.approx(2 * 2.0**2, rel=0.1)
    assert values[1] == pytest.approx(2 * 2.0**2, rel=0.1)


@pytest.mark.parametrize(
    ("moving_radius", "fixed_radius", "true"), [(18.0, 9.0, 2.0), (9.0, 18.0, 0.5), (20.0, 10.0, 2.0)]
)
def test_the_minimum_lies_at_the_true_scale(moving_radius, fixed_radius, true):
    scales = true * np.arange(0.9, 1.1, 0.005)
    values = [float(loss(scaling(s), disc(moving_radius), disc(fixed_radius))) for s in scales]
    assert scales[int(np.argmin(values))] == pytest.approx(true, rel=0.015)
    assert min(values) < 0.5 < values[0] and min(values) < 0.5 < values[-1]


def test_end_caps_of_thick_stacks_do_not_count():
    shape = (64, 64, 5)
    labels = [disc(r, shape) for r in (14.0, 12.0)]
    for x in labels:
        x[..., [0, 4]] = 0  # caps on both ends
    value = float(loss(scaling(1.0, shape), *labels, spacing=(1.0, 1.0, 8.0)))
    assert value == pytest.approx(float(loss(scaling(1.0), disc(14.0), disc(12.0))))
    assert float(loss(scaling(1.0, shape), *labels, spacing=(1.0, 1.0, 1.0))) < 0.7 * value


def test_structures_are_compared_one_by_one_and_missing_ones_are_left_out():
    still = torch.zeros(1, 2, 24, 24)
    moving, fixed = square(), square((2, 0))
    alone = float(loss(still, moving, fixed))
    moving[20:22, 2:4] = 2
    fixed[20:22, 2:4] = 2
    moving[20:22, 8:10] = 3
    assert float(loss(still, moving, fixed, 3)) == pytest.approx(alone / 2)
    assert float(loss(still, moving * 0, fixed, 3)) == 0


def test_a_structure_moved_out_of_the_image_gains_nothing():
    moving, fixed = square(), square((2, 0))
    away = torch.full((1, 2, 24, 24), 100.0)
    assert float(loss(away, moving, fixed)) == pytest.approx(float(loss(away * 0, moving, fixed)))


def test_descent_on_the_field_finds_the_shift():
    moving, fixed = square((-3, 1)), square()
    shift = torch.zeros(1, 2, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        loss(shift.expand(1, 2, 24, 24), moving, fixed).backward()
        optimizer.step()
    torch.testing.assert_close(shift.detach().flatten(), torch.tensor([-3.0, 1.0]), atol=0.1, rtol=0)


def test_descent_finds_the_scale():
    log_scale = torch.zeros(1, requires_grad=True)
    grid = scaling(2.0)  # the field of scale s is (s - 1) times this
    optimizer = torch.optim.Adam([log_scale], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss((log_scale.exp() - 1) * grid, disc(18.0), disc(9.0)).backward()
        optimizer.step()
    assert float(log_scale.detach().exp()) == pytest.approx(2.0, abs=0.04)


@pytest.mark.parametrize("spacing", [(1.0, 2.0), (1.3, 1.0, 5.0)])
def test_gradcheck(spacing):
    shape = (24, 24, 3)[: len(spacing)]
    moving, fixed = (square(s) if len(spacing) == 2 else square(s)[..., None].repeat(1, 1, 3) for s in ((0, 0), (1, 2)))
    torch.manual_seed(0)
    ddf = (torch.rand(1, len(shape), *shape, dtype=torch.float64) * 0.3 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: loss(u, moving, fixed, 1, spacing), ddf, fast_mode=True)
