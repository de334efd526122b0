# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Images of random shapes and textures with exact masks: domain randomisation for training the compact SAM."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> NDArray:
    """A smooth random field (size, size) of unit variance with about ``cells`` bumps per side."""
    coarse = rng.normal(size=(cells + 3, cells + 3))
    field = zoom(coarse, size / cells, order=3)
    start = rng.integers(0, field.shape[0] - size + 1, 2)
    field = field[start[0] : start[0] + size, start[1] : start[1] + size]
    return (field - field.mean()) / (field.std() + 1e-6)


def partition(rng: np.random.Generator, size: int, regions: int, cells: int) -> NDArray:
    """A random partition (size, size) int16 into smooth regions numbered from 1."""
    fields = np.stack([smooth_noise(rng, size, cells) for _ in range(regions)])
    return (fields.argmax(axis=0) + 1).astype(np.int16)


def blob_radius(rng: np.random.Generator, size: int) -> tuple[NDArray, float]:
    """Normalised radius (size, size) from the centre of a random smooth outline (1 on the outline), and its scale."""
    scale = size * np.exp(rng.uniform(np.log(0.02), np.log(0.25)))
    centre = rng.uniform(0.08, 0.92, 2) * size
    aspect = np.exp(rng.uniform(-0.7, 0.7))
    turn = rng.uniform(0, np.pi)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    y, x = y - centre[0], x - centre[1]
    u = (np.cos(turn) * x + np.sin(turn) * y) / (scale * np.sqrt(aspect))
    v = (-np.sin(turn) * x + np.cos(turn) * y) / (scale / np.sqrt(aspect))
    angle = np.arctan2(v, u)
    outline = 1 + sum(rng.normal(0, 0.16 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
    return np.hypot(u, v) / np.clip(outline, 0.3, None), scale


def shape_image(rng: np.random.Generator, size: int = 256) -> tuple[NDArray, NDArray, list[tuple[int, ...]]]:
    """Draws one image of random shapes, ``size`` pixels per side.

    Returns:
        image uint8 (size, size); layers int16 (2, size, size), first the visible part of each shape, then the
        background regions, 0 where a layer is empty; groups of shape numbers that form one larger object (a ring with
        its core).
    """
    background = partition(rng, size, int(rng.integers(2, 6)), int(rng.integers(2, 5)))
    shapes = np.zeros((size, size), np.int16)
    groups: list[tuple[int, ...]] = []
    number = 0
    for _ in range(int(rng.integers(3, 14))):
        radius, _ = blob_radius(rng, size)
        inside = radius < 1
        number += 1
        shapes[inside] = number
        if rng.random() < 0.4:
            core = radius < rng.uniform(0.4, 0.8)
            number += 1
            shapes[core] = number
            groups.append((number - 1, number))
    image = np.zeros((size, size))
    for layer, spread in ((background, 45.0), (shapes, 60.0)):
        base = rng.uniform(60, 190)
        for value in np.unique(layer[layer > 0]):
            where = layer == value
            image[where] = np.clip(base + rng.normal(0, spread), 0, 255)
            if rng.random() < 0.6:
                grain = gaussian_filter(rng.normal(size=(size, size)), rng.uniform(0.6, 4))
                image[where] += (grain / grain.std())[where] * rng.uniform(3, 22)
    image = gaussian_filter(image, rng.uniform(0.4, 1.8))
    image += smooth_noise(rng, size, 2) * rng.uniform(0, 25) + rng.normal(size=image.shape) * rng.uniform(1, 14)
    background[shapes > 0] = 0
    return np.clip(image, 0, 255).astype(np.uint8), np.stack([shapes, background]), groups
