"""Similarity, smoothness and overlap: analytic values, a naive oracle, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from scripts.benchmarks.speed.dense import roi_loss
from scripts.losses.overlap import soft_dice_loss
from scripts.losses.similarity import lncc, local_mean
from scripts.losses.smoothness import diffusion


@pytest.mark.parametrize("shape", [(20, 24), (12, 14, 10)])
def test_local_mean_inside_equals_scipy(shape):
    x = torch.rand(1, 1, *shape, dtype=torch.float64)
    ours = local_mean(x, [5] * len(shape))[0, 0].numpy()
    inner = tuple(slice(2, -2) for _ in shape)
    np.testing.assert_allclose(ours[inner], uniform_filter(x[0, 0].numpy(), 5)[inner], atol=1e-12)


def test_local_mean_along_an_axis_shorter_than_the_window():
    """A stack of a few slices; torch's own pooling refuses it."""
    x = torch.rand(1, 2, 6, 5, 2, dtype=torch.float64)
    slow = torch.stack([x[:, :, max(0, i - 1) : i + 2, :, :].mean(2) for i in range(6)], 2).mean(4, keepdim=True)
    torch.testing.assert_close(local_mean(x, [3, 1, 3]), slow.expand_as(x))


def test_local_mean_at_the_border_averages_the_inside():
    x = torch.ones(1, 1, 9, 9)
    torch.testing.assert_close(local_mean(x, [5, 5]), x)


def test_local_mean_keeps_its_precision_in_a_training_with_half_precision():
    """Differences of variances cancel, and a matrix product would be computed in bfloat16."""
    x = torch.rand(1, 1, 9, 8, 7)
    with torch.autocast("cpu", torch.bfloat16):
        half = local_mean(x, [3, 3, 3])
    torch.testing.assert_close(half, local_mean(x, [3, 3, 3]), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(7, 5), (6, 5, 4)])
def test_gradient_of_local_mean(shape):
    x = torch.rand(1, 2, *shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: local_mean(x, [3, 5, 9][: len(shape)]), x)


@pytest.mark.parametrize("shape", [(20, 24), (12, 14, 10)])
def test_lncc_is_one_for_linear_intensities(shape):
    x = torch.rand(2, 1, *shape)
    assert float(lncc(x, 3 - 2 * x, 5)) == pytest.approx(1, abs=0.02)
    assert float(lncc(x, torch.rand(2, 1, *shape), 5)) < 0.15


def test_flat_borders_do_not_count_as_alike():
    # MONAI's loss pads with zeros and calls a constant non-zero border perfectly correlated.
    assert float(lncc(torch.full((1, 1, 20, 20), 0.7), torch.full((1, 1, 20, 20), 0.2), 9)) == 0


def test_lncc_mask_selects():
    a = torch.rand(1, 1, 40, 40)
    b = torch.cat([a[..., :20], torch.rand(1, 1, 40, 20)], dim=-1)
    mask = torch.zeros(1, 1, 40, 40)
    mask[..., :16] = 1
    assert float(lncc(a, b, 7, mask)) > 0.99 > float(lncc(a, b, 7)) + 0.3


def test_lncc_gradient_and_errors():
    a = torch.rand(1, 1, 7, 6, requires_grad=True)
    b = torch.rand(1, 1, 7, 6)
    lncc(a, b, 3).backward()
    direction = torch.randn_like(a)
    step = 1e-2
    with torch.no_grad():
        slope = (lncc(a + step * direction, b, 3) - lncc(a - step * direction, b, 3)) / (2 * step)
    assert float((a.grad * direction).sum()) == pytest.approx(float(slope), rel=0.05, abs=2e-4)
    with pytest.raises(ValueError, match=r"\(1, 1, 5, 5\) and \(1, 1, 6, 5\)"):
        lncc(torch.rand(1, 1, 5, 5), torch.rand(1, 1, 6, 5))
    with pytest.raises(ValueError, match="got 4"):
        lncc(a, b, 4)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.5, 3.0)])
def test_diffusion_of_a_linear_map_is_the_squared_norm(spacing):
    gradient = torch.tensor([[0.1, -0.2, 0.0], [0.3, 0.05, 0.1], [0.0, 0.2, -0.1]])
    grid = torch.stack(torch.meshgrid(*[torch.arange(s) * d for s, d in zip((6, 7, 8), spacing)], indexing="ij"))
    mm = torch.einsum("ij,j...->i...", gradient, grid)
    voxels = mm / torch.tensor(spacing).view(3, 1, 1, 1)
    assert float(diffusion(voxels[None], spacing)) == pytest.approx(float((gradient**2).sum()), rel=1e-4)


def test_diffusion_does_not_depend_on_the_grid():
    def bump(n):
        x = torch.linspace(-1, 1, n)
        return torch.exp(-4 * (x[:, None] ** 2 + x[None] ** 2)).expand(1, 2, n, n) * n / 2

    coarse, fine = diffusion(bump(64), (2 / 63,) * 2), diffusion(bump(128), (2 / 127,) * 2)
    assert float(coarse) == pytest.approx(float(fine), rel=0.06)
    with pytest.raises(ValueError, match="2 spacings"):
        diffusion(bump(8), (1, 1, 1))


def test_overlap_losses_of_known_masks():
    a, b = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
    a[0, :4], b[0, 2:6] = 1, 1
    losses = soft_dice_loss(a, b)
    assert float(losses[0]) == pytest.approx(0.5, abs=1e-4)
    assert float(losses[1]) == pytest.approx(0, abs=1e-4)
    assert float(roi_loss(a, b)[0]) == pytest.approx(0.5 + 32 / 64, abs=1e-4)


def test_overlap_gradcheck():
    a = torch.rand(2, 3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.rand(2, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: roi_loss(x, b), a)
