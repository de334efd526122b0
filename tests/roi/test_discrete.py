"""The search over displacements against brute force, known shifts and known fields."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from scripts.common.errors import InputError
from scripts.losses.mind import mind
from scripts.metrics.jacobian import regularity
from scripts.roi.discrete import SearchSettings, inverse_consistent, search, search_grid, window
from scripts.roi.image_terms import ImageTerm, image_term
from scripts.roi.level import gaussian_smooth
from scripts.roi.staged_search import STAGES, staged_search
from scripts.spatial.warp import compose, warp


def texture(shape, seed=0, sigma=1.5, channels=1) -> torch.Tensor:
    noise = torch.randn(1, channels, *shape, generator=torch.Generator().manual_seed(seed))
    smooth = gaussian_smooth(noise, [sigma] * len(shape))[0]
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def naive_search(moving, fixed, reach, masks=None, weights=(), valid=None) -> np.ndarray:
    """The displacement of least cost of every cell, by loops; costs are averaged over neighbouring cells."""
    cells = fixed.shape[1:]
    offsets = list(itertools.product(*[range(-r, r + 1) for r in reach]))
    costs, looks = np.zeros((len(offsets), *cells)), np.ones((len(offsets), *cells))
    for d, offset in enumerate(offsets):
        for x in np.ndindex(*cells):
            y = tuple(min(max(a + b, 0), s - 1) for a, b, s in zip(x, offset, cells))
            cost = ((fixed[(slice(None), *x)] - moving[(slice(None), *y)]) ** 2).mean()
            if valid is not None:
                looks[(d, *x)] = valid[1][x] * valid[0][y]
            if masks is not None:
                cost += sum(w * (f[x] - m[y]) ** 2 for m, f, w in zip(*masks, weights))
            costs[(d, *x)] = cost
    for x in np.ndindex(*cells):
        here, look = costs[(slice(None), *x)], looks[(slice(None), *x)] > 0
        here[~look] = here[look].mean() if look.any() else 0.0
    smooth = np.zeros_like(costs)
    for x in np.ndindex(*cells):
        near = tuple(slice(max(a - 1, 0), a + 2) for a in x)
        smooth[(slice(None), *x)] = costs[(slice(None), *near)].reshape(len(offsets), -1).mean(axis=1)
    best = np.array(offsets)[smooth.argmin(axis=0)]
    return np.moveaxis(best, -1, 0)


@pytest.mark.parametrize("shape", [(9, 8), (6, 5, 5)])
@pytest.mark.parametrize("extra", ["none", "masks", "valid"])
def test_equals_brute_force(shape, extra):
    """Without a pull towards a smooth field the answer is the mean of the best displacements around each cell."""
    generator = torch.Generator().manual_seed(5)
    moving, fixed = torch.rand(2, 3, *shape, generator=generator)
    masks = valid = weights = None
    # Masks are empty at the border: beyond it a mask ends, and an image goes on.
    if extra == "masks":
        masks = (torch.rand(2, 2, *shape, generator=generator) > 0.5).float()
        masks[(..., 0)] = masks[(..., -1)] = 0
        masks[:, :, 0] = masks[:, :, -1] = 0
        if len(shape) == 3:
            masks[:, :, :, 0] = masks[:, :, :, -1] = 0
        weights = torch.tensor([0.4, 0.1])
    if extra == "valid":
        valid = (torch.rand(2, *shape, generator=generator) > 0.3).float()
    settings = SearchSettings(cell=1, reach=1, couplings=(0.0,), rounds=0)
    found = search(moving, fixed, [1.0] * len(shape), settings, masks=masks, weights=weights, valid=valid)
    best = naive_search(
        moving.double().numpy(), fixed.double().numpy(), [1] * len(shape),
        None if masks is None else masks.double().numpy(), () if weights is None else weights.tolist(),
        None if valid is None else valid.numpy(),
    )  # fmt: skip
    expected = np.zeros(best.shape)
    for x in np.ndindex(*shape):
        near = tuple(slice(max(a - 1, 0), a + 2) for a in x)
        expected[(slice(None), *x)] = best[(slice(None), *near)].reshape(len(shape), -1).mean(axis=1)
    np.testing.assert_allclose(found.forward[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("shape", "shift"), [((64, 60), (8, -4)), ((32, 28, 28), (4, -4, 4))])
def test_a_shift_is_found_in_both_directions(shape, shift):
    image = texture([s + 24 for s in shape], sigma=2.0)
    inner = tuple(slice(12, 12 + s) for s in shape)
    fixed = image[(slice(None), *inner)]
    moving = image.roll([-s for s in shift], list(range(1, 1 + len(shape))))[(slice(None), *inner)]
    # fixed(x) = image(x + 12), moving(x) = image(x + 12 + shift): the partner lies at x - shift
    features = [mind(i[None])[0] for i in (moving, fixed)]
    found = search(*features, [1.0] * len(shape), SearchSettings(cell=2.0, reach=5 if len(shape) == 2 else 3))
    inside = tuple(slice(s // 8, -(s // 8)) for s in found.forward.shape[2:])
    for field, sign in ((found.forward, -1), (found.backward, 1)):
        median = field[(0, slice(None), *inside)].flatten(1).median(dim=1).values * 2
        torch.testing.assert_close(median, sign * torch.tensor(shift).float(), atol=0.5, rtol=0)


def wave(shape, amplitude: float) -> torch.Tensor:
    """A smooth field (1, n, *shape) that ends at the border."""
    axes = torch.meshgrid(*[torch.linspace(0, 2 * torch.pi, s) for s in shape], indexing="ij")
    fade = torch.stack([torch.sin(a / 2) for a in axes]).prod(dim=0)
    return torch.stack([amplitude * fade * torch.cos(axes[(a + 1) % len(shape)] + a) for a in range(len(shape))])[None]


@pytest.mark.parametrize("contrast", [lambda i: i, lambda i: 1 - i])
def test_stages_find_a_known_field_whatever_the_contrast(contrast):
    shape = (96, 88)
    truth = wave(shape, 10.0)
    moving = texture(shape, sigma=1.5)
    fixed = contrast(warp(moving[None], truth)[0])
    term = image_term((moving, fixed), (1.0, 1.0), "mind", 1.0)
    found = staged_search(term, (1.0, 1.0), STAGES, torch.zeros(1, 2, *shape))
    error = (found.forward - truth).norm(dim=1)[0, 10:-10, 10:-10]
    assert truth.norm(dim=1).mean() > 3
    assert error.mean() < 1.2
    assert compose(found.backward, found.forward)[:, :, 10:-10, 10:-10].norm(dim=1).mean() < 0.5
    assert regularity(found.forward)["folds_percent"] == 0


def test_masks_lead_where_the_images_are_flat():
    shape = (48, 48)
    flat = torch.zeros(1, 1, *shape)
    fixed = torch.zeros(1, *shape)
    fixed[0, 16:28, 16:28] = 1
    moving = fixed.roll(6, 1)
    term = ImageTerm("mind", flat, flat, 1.0)
    found = staged_search(
        term, (1.0, 1.0), ((3.0, 4),), torch.zeros(1, 2, *shape), (moving * 255, fixed * 255), torch.ones(1)
    )
    assert found.forward[0, 0, 20:24, 20:24].mean() == pytest.approx(6.0, abs=1.5)


def test_what_is_not_valid_changes_nothing():
    shape = (40, 40)
    features = texture(shape, channels=4), texture(shape, seed=1, channels=4)
    valid = torch.ones(2, *shape)
    valid[0, 8:20, 8:20] = 0
    other = features[0].clone()
    other[:, 8:20, 8:20] = 7.0
    fields = [
        search(m, features[1], (1, 1), SearchSettings(2.0, 3), valid=tuple(valid)).forward for m in (features[0], other)
    ]
    torch.testing.assert_close(fields[0], fields[1])


def test_what_is_out_of_view_neither_attracts_nor_repels():
    """The moving image shows half of the scene: the field is right there, and fades to no motion beyond."""
    shape = (48, 48)
    scene = texture((48, 60), channels=4)
    moving, fixed = scene[:, :, 6:54].clone(), scene[:, :, 3:51]  # fixed x shows moving x - 3
    valid = torch.ones(2, *shape)
    moving[:, :, 26:], valid[0, :, 26:] = 0, 0
    found = search(moving, fixed, (1, 1), SearchSettings(3.0, 3), valid=tuple(valid)).forward[0, 1]
    assert found[:, :8] == pytest.approx(torch.full((16, 8), -1.0), abs=0.4)
    assert found.min() > -2.5 and found.max() < 0.1
    assert found[:, -1].abs().max() < 0.1


def test_fields_become_inverse():
    forward = wave((40, 40), 2.0)
    backward = torch.zeros_like(forward)
    made = inverse_consistent(forward, backward, 15)
    before = compose(backward, forward).norm(dim=1).mean()
    assert compose(*made[::-1])[..., 4:-4, 4:-4].norm(dim=1).mean() < 0.05 * before


def test_the_minimum_is_wide_where_nothing_can_be_told():
    shape = (64, 64)
    image = texture(shape, sigma=1.0)
    image[:, :, :32] = 0.5
    width = search(*[mind(image[None])[0]] * 2, (1, 1), SearchSettings(2.0, 4)).width[0, 0]
    assert width[4:-4, 4:12].mean() > 2 * width[4:-4, 22:28].mean()


def test_thick_slices_are_searched_less_and_memory_is_bounded():
    cells, reach = search_grid((128, 128, 10), (1.5, 1.5, 9.0), SearchSettings(cell=4.0, reach=4))
    assert cells == (32, 32, 10)
    assert reach == (4, 4, 3)  # 24 mm in the plane, 27 mm through it
    settings = SearchSettings(cell=1.0, reach=3, max_costs=10**6)
    cells, reach = search_grid((200, 200, 200), (1.0, 1.0, 1.0), settings)
    assert np.prod(cells) * len(window(reach)) <= 10**6
    assert search_grid((64, 64, 1), (1.0, 1.0, 1.0), SearchSettings()) == ((16, 16, 1), (4, 4, 0))


def test_bad_settings():
    with pytest.raises(InputError, match=r"0\.5 and 4"):
        SearchSettings(cell=0.5)
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) and \(1, 5, 4\)"):
        search(torch.zeros(1, 4, 4), torch.zeros(1, 5, 4), (1, 1))
