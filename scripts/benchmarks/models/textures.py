# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Phantoms repainted with textures that no training image has: same anatomy, another kind of picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree


def speckle(rng: np.random.Generator, size: tuple[int, int]) -> NDArray:
    """Multiplicative noise of ultrasound: the amplitude of a blurred complex random field, mean 1."""
    waves = [gaussian_filter(rng.normal(size=size), rng.uniform(0.8, 1.6)) for _ in range(2)]
    amplitude = np.hypot(*waves)
    return amplitude / amplitude.mean()


def stripes(rng: np.random.Generator, size: tuple[int, int]) -> NDArray:
    """Parallel lines of one direction and distance, mean 1."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    angle, wavelength = rng.uniform(0, np.pi), rng.uniform(4, 12)
    phase = 2 * np.pi * (np.cos(angle) * columns + np.sin(angle) * rows) / wavelength
    return 1 + 0.25 * np.sign(np.sin(phase + rng.uniform(0, 2 * np.pi)))


def cells(rng: np.random.Generator, size: tuple[int, int]) -> NDArray:
    """Dark dots at random places, like nuclei in a tissue section, mean about 1."""
    count = int(size[0] * size[1] / rng.uniform(30, 200))
    places = rng.uniform((0, 0), size, (count, 2))
    grid = np.stack(np.mgrid[: size[0], : size[1]], axis=-1).reshape(-1, 2)
    distance = cKDTree(places).query(grid)[0].reshape(size)
    return 1.15 - 0.5 * (distance < rng.uniform(1.2, 2.4))


TEXTURES = {"speckle": speckle, "stripes": stripes, "cells": cells}


def repaint(tissue: NDArray, texture: str, seed: int) -> NDArray:
    """A picture (H, W) uint8 of a tissue map, every tissue with its own random grey level and texture.

    Args:
        tissue: (H, W) whole numbers, 0 outside the body.
        texture: a key of ``TEXTURES``.
        seed: of grey levels and textures.
    """
    rng = np.random.default_rng([seed, sorted(TEXTURES).index(texture)])
    values = [v for v in np.unique(tissue) if v]
    picture = np.full(tissue.shape, 8.0)
    # Grey levels are dealt out, so that no two tissues have the same one.
    for value, level in zip(values, rng.permutation(np.linspace(50, 210, len(values)))):
        where = tissue == value
        picture[where] = level * TEXTURES[texture](rng, tissue.shape)[where]
    return np.clip(gaussian_filter(picture, 0.5) + rng.normal(0, 3, tissue.shape), 0, 255).astype(np.uint8)
