"""MIND-SSC against a naive implementation, and the changes it must and must not notice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from scripts.losses.mind import mind


def naive_mind(image: np.ndarray, steps: dict[int, int], radius: dict[int, int]) -> np.ndarray:
    """Loops over voxels, neighbours and patches; positions beyond the border read the border voxel."""

    def read(place) -> float:
        return image[tuple(min(max(p, 0), s - 1) for p, s in zip(place, image.shape))]

    unit = np.eye(image.ndim, dtype=int)
    neighbours = [sign * steps[a] * unit[a] for a in steps for sign in (-1, 1)]
    pairs = [(p, q) for p, q in itertools.combinations(neighbours, 2) if (p + q).any()]
    distances = np.zeros((len(pairs), *image.shape))
    for c, (p, q) in enumerate(pairs):
        for x in np.ndindex(*image.shape):
            patch = itertools.product(*[range(-radius.get(a, 0), radius.get(a, 0) + 1) for a in range(image.ndim)])
            inside = [y for y in (np.add(x, o) for o in patch) if (y >= 0).all() and (y < image.shape).all()]
            distances[(c, *x)] = np.mean([(read(y + p) - read(y + q)) ** 2 for y in inside])
    distances -= distances.min(axis=0)
    scale = distances.mean(axis=0)
    return np.exp(-distances / np.maximum(scale, 1e-3 * scale.mean()))


@pytest.mark.parametrize(
    ("shape", "spacing", "steps", "radius", "channels"),
    [
        ((7, 6, 5), None, {0: 2, 1: 2, 2: 2}, {0: 1, 1: 1, 2: 1}, 12),
        ((9, 8), None, {0: 2, 1: 2}, {0: 1, 1: 1}, 4),
        ((7, 6, 4), (1.0, 1.0, 2.1), {0: 2, 1: 2, 2: 1}, {0: 1, 1: 1}, 12),  # half as fine: half the steps
        ((4, 7, 6), (8.0, 1.5, 1.5), {1: 2, 2: 2}, {1: 1, 2: 1}, 4),  # thick slices, one by one
    ],
)
def test_equals_the_naive_implementation(shape, spacing, steps, radius, channels):
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    found = mind(image, spacing=spacing)
    assert found.shape == (1, channels, *shape)
    expected = naive_mind(image[0, 0].double().numpy(), steps, radius)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-5)


def test_a_change_of_contrast_changes_nothing():
    image = torch.rand(1, 1, 12, 12, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mind(5 - 3 * image), mind(image), atol=2e-4, rtol=0)
    assert (mind(torch.rand_like(image)) - mind(image)).abs().mean() > 0.1
    assert (mind(torch.full_like(image, 0.3)) == 1).all()


def test_colours_are_averaged():
    grey = torch.rand(2, 1, 10, 9, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(mind(grey.expand(2, 3, 10, 9)), mind(grey))


@pytest.mark.parametrize(("shape", "options"), [((1, 1, 8, 8), {"radius": 0}), ((1, 1, 8, 8), {"dilation": 0})])
def test_bad_settings(shape, options):
    with pytest.raises(ValueError, match="at least 1"):
        mind(torch.zeros(shape), **options)
    with pytest.raises(ValueError, match=r"two axes.*\(8, 1\)"):
        mind(torch.zeros(1, 1, 8, 1))
