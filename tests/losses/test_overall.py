"""The terms of equation 11: known values, and a gradient step that lowers each."""

from __future__ import annotations

import pytest
import torch

from scripts.losses.registration import field_terms


def blob(shift: float, shape: tuple[int, ...]) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(s, dtype=torch.float32) for s in shape], indexing="ij")
    centre = [s / 2 + shift * (a == 0) for a, s in enumerate(shape)]
    return torch.exp(-sum(((x - c) / 4) ** 2 for x, c in zip(axes, centre)))


@pytest.mark.parametrize("shape", [(24, 22), (20, 18, 10)])
def test_every_term_of_the_field(shape):
    images = torch.stack([blob(-2, shape), blob(1, shape)])
    labels = (images > 0.3).float() + (images > 0.7).float()
    spacing = [1.0] * (len(shape) - 1) + [3.0]
    still = torch.zeros(1, len(shape), *shape)
    terms = field_terms(still, images, labels, 3, spacing)
    assert set(terms) == {"lncc", "diffusion", "dice", "contour"}
    assert float(terms["diffusion"]) == 0
    right = still.clone()
    right[:, 0] = -3
    better = field_terms(right, images, labels, 3, spacing)
    assert float(better["dice"]) < 0.02 < 0.2 < float(terms["dice"])
    assert float(better["lncc"]) < float(terms["lncc"])
    assert float(better["contour"]) < 0.05 < 1 < float(terms["contour"])


def test_a_step_on_the_field_lowers_each_term():
    shape = (24, 22)
    images = torch.stack([blob(-2, shape), blob(1, shape)])
    labels = (images > 0.3).float() + (images > 0.7).float()
    torch.manual_seed(0)
    start = torch.randn(1, 2, *shape) * 0.2
    for key in ("lncc", "diffusion", "dice", "contour"):
        ddf = start.clone().requires_grad_()
        loss = field_terms(ddf, images, labels, 2, (1.0, 1.0))[key]
        loss.backward()
        step = 0.05 * ddf.grad / ddf.grad.abs().max()
        with torch.no_grad():
            assert float(field_terms(ddf - step, images, labels, 2, (1.0, 1.0))[key]) < float(loss), key


def test_without_masks_only_the_images_count():
    images = torch.rand(2, 12, 12)
    ddf = torch.zeros(1, 2, 12, 12, requires_grad=True)
    terms = field_terms(ddf, images, torch.zeros(2, 12, 12), 3, (1.0, 1.0))
    sum(terms.values()).backward()
    assert float(terms["dice"].detach()) == 0 and float(terms["contour"].detach()) == 0
    assert torch.isfinite(ddf.grad).all()
