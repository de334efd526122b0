"""Warps against MONAI's, fields against analytic answers."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks import DVF2DDF, Warp

from scripts.spatial.warp import compose, integrate, resize_ddf, sample, warp
from tests.conftest import smooth_field


@pytest.mark.parametrize("shape", [(17, 23), (11, 14, 9)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_equals_monai_warp(shape, mode):
    image = torch.rand(2, 3, *shape)
    ddf = torch.cat([smooth_field(shape, 2.0, 1), smooth_field(shape, 2.0, 2)])
    expected = Warp(mode, "border")(image, ddf)
    torch.testing.assert_close(warp(image, ddf, mode), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["border", "zeros", "reflection"])
def test_threads_share_a_volume(mode, padding):
    # An odd number of voxels leaves the last thread fewer than the others.
    shape = (23, 27, 21)
    image, ddf = torch.rand(1, 2, *shape), smooth_field(shape, 4.0, 1)
    threads, results = torch.get_num_threads(), []
    for count in (1, 4):
        torch.set_num_threads(count)
        try:
            leaves = image.clone().requires_grad_(), ddf.clone().requires_grad_()
            moved = warp(*leaves, mode, padding)
            (moved * torch.linspace(0, 1, moved.numel()).view(moved.shape)).sum().backward()
        finally:
            torch.set_num_threads(threads)
        results.append((moved.detach(), *[leaf.grad for leaf in leaves]))
    torch.testing.assert_close(results[1][0], results[0][0], atol=0, rtol=0)
    torch.testing.assert_close(results[1][1:], results[0][1:])


@pytest.mark.parametrize("shape", [(32, 40), (20, 24, 16)])
def test_compose_equals_two_warps(shape):
    # A linear image is interpolated exactly, so both sides must agree away from the border.
    grid = torch.stack(torch.meshgrid(*[torch.arange(s, dtype=torch.float32) for s in shape], indexing="ij"))[None]
    first, second = smooth_field(shape, 0.8, 1), smooth_field(shape, 0.8, 2)
    twice = warp(warp(grid, first), second)
    once = warp(grid, compose(first, second))
    inner = (..., *[slice(4, -4)] * len(shape))
    torch.testing.assert_close(twice[inner], once[inner], atol=1e-3, rtol=0)


def test_integrate_scaling_field_is_exponential():
    # v = a (x - c) has the flow x -> c + e^a (x - c).
    shape, a = (33, 33), 0.3
    grid = torch.stack(torch.meshgrid(*[torch.arange(s, dtype=torch.float32) for s in shape], indexing="ij"))[None]
    offset = grid - 16
    ddf = integrate(a * offset, steps=7)
    expected = (torch.tensor(a).exp() - 1) * offset
    inner = (..., slice(6, -6), slice(6, -6))
    assert (ddf - expected)[inner].abs().max() < 0.02
    torch.testing.assert_close(integrate(a * offset, 7)[inner], DVF2DDF(7)(a * offset)[inner], atol=1e-2, rtol=0)


def test_integrate_minus_velocity_is_the_inverse():
    velocity = smooth_field((32, 32, 24), 0.8, 3)
    round_trip = compose(integrate(velocity), integrate(-velocity))
    residual = round_trip[..., 5:-5, 5:-5, 5:-5].abs()
    assert residual.max() < 0.05 * velocity.abs().max()
    assert residual.mean() < 0.005 * velocity.abs().max()


@pytest.mark.parametrize(("old", "new"), [((10, 12), (20, 36)), ((8, 10, 6), (16, 10, 12))])
def test_resize_keeps_the_physical_displacement(old, new):
    # A linear displacement field over the same box, in millimetres, must not depend on the grid.
    def field(shape):
        places = [(torch.arange(s) + 0.5) / s for s in shape]
        grid = torch.stack(torch.meshgrid(*places, indexing="ij"))[None]
        return 0.1 * grid.flip(1) * torch.tensor(shape).view(1, -1, *[1] * len(shape))

    inner = (..., *[slice(2, -2)] * len(new))
    torch.testing.assert_close(resize_ddf(field(old), new)[inner], field(new)[inner], atol=1e-5, rtol=1e-5)


def test_sample_reads_single_slice_axes():
    image = torch.arange(12.0).view(1, 1, 3, 4, 1)
    places = torch.tensor([1.0, 2.5, 0.0]).view(1, 3, 1, 1, 1)
    assert float(sample(image, places)) == pytest.approx(4 + 2.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: warp(torch.rand(1, 1, 4, 4), torch.rand(1, 3, 4, 4)), r"A DDF must be .*\(1, 3, 4, 4\)"),
        (lambda: warp(torch.rand(1, 1, 5, 4), torch.rand(1, 2, 4, 4)), r"\(5, 4\) and DDF grid \(4, 4\)"),
        (lambda: warp(torch.rand(1, 1, 4, 4), torch.rand(1, 2, 4, 4), "trilinear"), "'trilinear'"),
        (lambda: warp(torch.rand(1, 1, 4, 4), torch.rand(1, 2, 4, 4), padding="wrap"), "'wrap'"),
        (lambda: sample(torch.rand(1, 1, 4, 4), torch.rand(1, 3, 2, 2)), r"\(1, 3, 2, 2\)"),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
