"""The correlation volume: a loop over voxels, a known shift, and a network that starts as if without it."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from scripts.network.correlation import CorrelationVolume, local_correlation
from scripts.network.model import CrossFusionNet
from scripts.network.weights import load_network


def slow_correlation(moving, fixed, radius):
    shape = fixed.shape[2:]
    steps = list(product(range(-radius, radius + 1), repeat=len(shape)))
    out = torch.zeros(len(fixed), len(steps), *shape)
    for b, (k, step), place in product(range(len(fixed)), enumerate(steps), product(*[range(s) for s in shape])):
        other = [x + d for x, d in zip(place, step)]
        if all(0 <= x < s for x, s in zip(other, shape)):
            a, c = fixed[(b, slice(None), *place)], moving[(b, slice(None), *other)]
            out[(b, k, *place)] = (a * c).sum() / (a.norm() * c.norm())
    return out


@pytest.mark.parametrize(("shape", "radius"), [((5, 4), 2), ((4, 3, 3), 1)])
def test_volume_equals_a_loop(shape, radius):
    moving, fixed = torch.randn(2, 2, 6, *shape).unbind()
    expected = slow_correlation(moving, fixed, radius)
    torch.testing.assert_close(local_correlation(moving, fixed, radius), expected, atol=1e-6, rtol=1e-5)


def test_the_best_entry_names_the_shift():
    fixed = torch.randn(1, 32, 10, 12)
    volume = local_correlation(fixed.roll((1, -2), dims=(2, 3)), fixed, 2)[0, :, 3:7, 3:9]
    assert torch.equal(volume.argmax(dim=0), torch.full((4, 6), 5 * (1 + 2) + (-2 + 2)))


def test_gradients_reach_features_and_weights():
    layer = CorrelationVolume(2, 3, 1).double()
    torch.nn.init.normal_(layer.mix.weight)
    moving, fixed = (torch.randn(1, 4, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(layer, (moving, fixed))
    layer(moving, fixed).square().sum().backward()
    assert float(layer.mix.weight.grad.abs().sum()) > 0


def test_a_network_starts_from_weights_without_the_volume(tmp_path):
    torch.manual_seed(0)
    plain = CrossFusionNet(2, 1, channels=(4, 8, 8)).eval()
    torch.nn.init.normal_(plain.levels[0].head.weight, std=0.1)
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    net = load_network(CrossFusionNet(2, 1, channels=(4, 8, 8), correlation=1), tmp_path / "plain.pt", True).eval()
    assert [level.correlation is not None for level in net.levels] == [False, True, True]
    image, seen = torch.rand(1, 4, 17, 12), {}
    level = net.levels[1]
    level.register_forward_pre_hook(lambda module, inputs: seen.update(level=inputs))
    level.correlation.register_forward_pre_hook(lambda module, inputs: seen.update(volume=inputs))
    with torch.no_grad():
        torch.testing.assert_close(net(image), plain(image), atol=0, rtol=0)
        assert all(a is b for a, b in zip(seen["volume"], seen["level"], strict=False))  # warped moving, and fixed
        torch.nn.init.normal_(net.levels[1].correlation.mix.weight)
        assert float((net(image) - plain(image)).abs().max()) > 1e-5
    net(image).square().sum().backward()
    assert all(float(level.correlation.mix.weight.grad.abs().sum()) > 0 for level in net.levels[1:])
