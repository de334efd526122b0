"""Jacobian determinants with known answers."""

from __future__ import annotations

import math

import pytest
import torch

from scripts.metrics.jacobian import jacobian_determinant, regularity


def linear_field(matrix: torch.Tensor, shape) -> torch.Tensor:
    """DDF of x -> matrix x."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(s, dtype=torch.float64) for s in shape], indexing="ij"))[None]
    return torch.einsum("ij,bj...->bi...", matrix.double() - torch.eye(len(shape), dtype=torch.float64), grid)


@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 7)])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3])
def test_scaling(shape, scale):
    n = len(shape)
    det = jacobian_determinant(linear_field(scale * torch.eye(n), shape))
    torch.testing.assert_close(det, torch.full((1, *shape), scale**n, dtype=torch.float64))


def test_rotation_and_reflection():
    a = math.pi / 6
    turn = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    torch.testing.assert_close(
        jacobian_determinant(linear_field(turn, (5, 5))), torch.ones(1, 5, 5, dtype=torch.float64)
    )
    mirror = linear_field(torch.diag(torch.tensor([-1.0, 1.0])), (5, 5))
    assert regularity(mirror)["folds_percent"] == 100


def test_regularity_of_known_fields():
    still = regularity(torch.zeros(1, 3, 4, 5, 6))
    assert still == {"folds_percent": 0.0, "sdlogj": 0.0, "sdlogj_plain": 0.0}
    # Half of the volume stretched by 2 along one axis, half left alone; the seam is one slice of central differences.
    ddf = torch.zeros(1, 3, 40, 4, 4, dtype=torch.float64)
    ddf[0, 0, 20:] = torch.arange(20, dtype=torch.float64)[:, None, None]
    values = torch.tensor([1.0] * 19 + [1.0, 1.5] + [2.0] * 19, dtype=torch.float64).repeat_interleave(16)
    found = regularity(ddf)
    assert found["sdlogj_plain"] == pytest.approx(float(values.log().std()), rel=1e-6)
    assert found["sdlogj"] == pytest.approx(float((values + 3).log().std()), rel=1e-6)


def test_one_slice_does_not_deform_through_plane():
    assert float(jacobian_determinant(torch.rand(1, 3, 1, 1, 1))) == 1.0
    flat = torch.zeros(1, 3, 6, 6, 1)
    flat[0, 0] = 0.5 * torch.arange(6)[:, None, None]
    torch.testing.assert_close(jacobian_determinant(flat), torch.full((1, 6, 6, 1), 1.5))


def test_wrong_shape():
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4, 4\)"):
        jacobian_determinant(torch.zeros(1, 2, 4, 4, 4))
