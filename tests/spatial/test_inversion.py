"""The inverse: analytic answers, the phantoms' true fields, and fields with an alignment in them."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.data.phantoms.abdomen import abdomen_pair
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.spatial.chain import Field, Linear, map_points
from scripts.spatial.geometry import Geometry, apply_affine, world_displacement
from scripts.spatial.inversion import invert_chain, invert_points, summary
from scripts.spatial.warp import integrate
from tests.conftest import oblique, rotation, smooth_field

GRID = oblique((30, 26, 18), (1.5, 1.2, 3.0), 25)


def test_translation_inverts_exactly():
    u = np.tile(np.float32([3.0, -2.0, 1.0]), (*GRID.shape, 1))
    field, there, around = invert_chain([Field(u, GRID)], GRID, GRID)
    np.testing.assert_allclose(field.u_lps, -u, atol=1e-4)
    assert there["max_mm"] < 1e-3 and around["max_mm"] < 1e-3
    assert 0 < there["outside_percent"] < 50


def test_strong_growth_where_plain_iteration_diverges():
    """A map whose slope lies between 0.2 and 3: |1 - slope| exceeds 1, and plain fixed points swing ever wider."""
    slope = np.where((np.arange(60) > 25) & (np.arange(60) < 35), 3.0, 0.6)
    mapped = np.cumsum(slope) - np.cumsum(slope)[30] + 30
    grid = Geometry((60, 8, 8), np.eye(4))
    u = np.zeros((60, 8, 8, 3), np.float32)
    u[..., 0] = -(mapped - np.arange(60))[:, None, None]  # RAS and LPS differ in sign along x
    field, there, _ = invert_chain([Field(u, grid)], grid, grid)
    assert there["max_mm"] < 2e-3
    exact = np.interp(np.arange(60), mapped, np.arange(60))
    inside = (np.arange(60) > mapped[0]) & (np.arange(60) < mapped[-1])
    np.testing.assert_allclose((np.arange(60) - field.u_lps[:, 4, 4, 0])[inside], exact[inside], atol=2e-3)


@pytest.mark.parametrize("maker", [cardiac_pair, abdomen_pair])
def test_true_fields_of_the_phantoms(maker):
    pair = maker(1) if maker is cardiac_pair else maker(1, (64, 52, 40), (5.5, 5.5, 6.0))
    fixed, moving = Geometry(pair.fixed.shape, pair.fixed_affine), Geometry(pair.moving.shape, pair.moving_affine)
    u = world_displacement(pair.ddf, fixed).astype(np.float32)
    _, there, around = invert_chain([Field(u, fixed)], fixed, moving)
    assert there["p95_mm"] < 0.01 * min(fixed.spacing)
    assert around["p95_mm"] < 0.1 * min(fixed.spacing)


def test_field_with_a_large_alignment_in_it():
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((1, 0, 2), 70) * 1.4
    matrix[:3, 3] = (30.0, -20.0, 10.0)
    ddf = integrate(smooth_field(GRID.shape, 0.4, 3))[0].numpy()
    moving = Geometry(GRID.shape, matrix @ GRID.affine)
    u = world_displacement(ddf, GRID, matrix).astype(np.float32)
    one, there, around = invert_chain([Field(u, GRID)], GRID, moving)
    assert there["p95_mm"] < 0.01 and around["p95_mm"] < 0.3 and there["points"] > 0.5 * np.prod(GRID.shape)
    # The same as a chain of two.
    plain = Field(world_displacement(ddf, GRID).astype(np.float32), GRID)
    two, _, _ = invert_chain([plain, Linear(matrix)], GRID, moving)
    inner = (slice(8, -8), slice(8, -8), slice(5, -5))
    np.testing.assert_allclose(one.u_lps[inner], two.u_lps[inner], atol=0.02)


def test_velocity_field_inverts_to_its_negative():
    velocity = smooth_field(GRID.shape, 0.7, 5)
    grid = Geometry(GRID.shape, np.eye(4))
    u = world_displacement(integrate(velocity)[0].numpy(), grid).astype(np.float32)
    field, _, _ = invert_chain([Field(u, grid)], grid, grid)
    exact = world_displacement(integrate(-velocity)[0].numpy(), grid)
    inner = (slice(5, -5), slice(5, -5), slice(5, -5))
    assert np.percentile(np.linalg.norm(field.u_lps - exact, axis=-1)[inner], 95) < 0.05


def test_points_come_back():
    steps = [
        Field(world_displacement(integrate(smooth_field(GRID.shape, 0.8, 7))[0].numpy(), GRID), GRID),
        Linear(np.diag([1.1, 0.9, 1.0, 1.0])),
    ]
    start = apply_affine(GRID.affine, np.array([[10, 12, 7], [15, 9, 8], [20, 16, 6]]))
    np.testing.assert_allclose(invert_points(steps, map_points(steps, start)), start, atol=5e-3)


def test_plane_points_come_back():
    plane = oblique((30, 26), (1.5, 1.2), 30)
    field = Field(world_displacement(smooth_field((30, 26), 0.8, 2)[0].numpy(), plane), plane)
    start = apply_affine(plane.affine, np.array([[10.0, 12.0, 0.0], [15.0, 9.0, 0.0]]))
    np.testing.assert_allclose(invert_points([field], map_points([field], start)), start, atol=5e-3)
    inverse, there, _ = invert_chain([field], plane, plane)
    assert inverse.u_lps.shape == (30, 26, 3) and there["p95_mm"] < 0.01


def test_summary_leaves_out_what_left_the_field():
    found = summary(np.array([1.0, np.nan, 3.0, np.nan]))
    assert [found[k] for k in ("mean_mm", "max_mm", "points", "outside_percent")] == [2.0, 3.0, 2, 50.0]
    nothing = summary(np.array([np.nan]))
    assert nothing["points"] == 0 and np.isnan(nothing["mean_mm"])
