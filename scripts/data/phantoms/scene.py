# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Implicit anatomy: tissues painted in order on any point set; a deformed image needs no interpolation.

All coordinates are canonical millimetres: x to the patient's left, y posterior, z superior, origin in the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Inside = Callable[[NDArray], NDArray]
WAVES = 24  # of a texture


@dataclass(frozen=True)
class Tissue:
    """One tissue of a scene; later tissues are painted over earlier ones.

    Attributes:
        name: lower-case anatomical name.
        inside: maps points (N, 3) in mm to a boolean (N,).
        intensity: mean intensity.
        contrast: standard deviation of its texture.
        grain_mm: wavelength of its texture.
        label: value in the anatomical label map, 0 when the tissue is not a labelled structure.
    """

    name: str
    inside: Inside
    intensity: float
    contrast: float = 0.0
    grain_mm: float = 8.0
    label: int = 0


def within(low: NDArray, high: NDArray, inside: Inside) -> Inside:
    """The same shape, evaluated only inside its bounding box, because most points are far from most organs."""

    def culled(points: NDArray) -> NDArray:
        near = ((points >= low) & (points <= high)).all(axis=1)
        found = np.zeros(len(points), bool)
        found[near] = inside(points[near])
        return found

    return culled


def superellipsoid(
    center: tuple[float, float, float],
    radii: tuple[float, float, float],
    rng: np.random.Generator,
    *,
    angle_deg: float = 0.0,
    exponent: float = 2.0,
    lumps: float = 0.06,
) -> Inside:
    """A lumpy superellipsoid, rotated in the axial plane.

    Args:
        center: mm.
        radii: half axes in mm.
        rng: source of the lumps, so that no two organs have the same outline.
        angle_deg: rotation about z.
        exponent: 2 is an ellipsoid, larger is boxier.
        lumps: relative amplitude of the surface undulation.
    """
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    rotation = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    waves = rng.normal(size=(4, 3)) * 2.2
    phases = rng.uniform(0, 2 * np.pi, 4)

    across = max(radii[:2]) * np.sqrt(2)
    reach = np.array([across, across, radii[2]]) * (1 + 2 * lumps)

    def inside(points: NDArray) -> NDArray:
        local = (points - np.asarray(center)) @ rotation.T / np.asarray(radii)
        undulation = np.cos(local @ waves.T + phases).mean(axis=1) * 2 * lumps
        return (np.abs(local) ** exponent).sum(axis=1) < (1 + undulation) ** exponent

    return within(np.asarray(center) - reach, np.asarray(center) + reach, inside)


def tube(axis_points: NDArray, radius: float) -> Inside:
    """A tube of constant radius (mm) around a polyline (K, 3) in mm: vessels and bowel."""
    starts, ends = axis_points[:-1], axis_points[1:]

    def inside(points: NDArray) -> NDArray:
        found = np.zeros(len(points), bool)
        for a, b in zip(starts, ends):
            along = b - a
            t = np.clip((points - a) @ along / (along @ along), 0, 1)
            found |= ((points - a - t[:, None] * along) ** 2).sum(axis=1) < radius**2
        return found

    return within(axis_points.min(axis=0) - radius, axis_points.max(axis=0) + radius, inside)


def without(inside: Inside, *others: Inside) -> Inside:
    """The part of a shape outside others."""
    return lambda points: inside(points) & ~np.logical_or.reduce([o(points) for o in others])


def paint(scene: list[Tissue], points: NDArray) -> NDArray:
    """Index of the topmost tissue at each point, (N,) uint8; 0 is outside everything, i + 1 is ``scene[i]``."""
    tissue = np.zeros(len(points), np.uint8)
    for i, t in enumerate(scene):
        tissue[t.inside(points)] = i + 1
    return tissue


def texture(points: NDArray, grain_mm: float, rng: np.random.Generator) -> NDArray:
    """A random field (N,) of unit variance and given wavelength, a sum of plane waves (random Fourier features)."""
    k = rng.normal(size=(WAVES, 3)) * (2 * np.pi / grain_mm) / np.sqrt(3)
    phase = rng.uniform(0, 2 * np.pi, WAVES)
    return np.cos(points @ k.T + phase).sum(axis=1) * np.sqrt(2 / WAVES)


def intensities(scene: list[Tissue], tissue: NDArray, points: NDArray, background: float, seed: int) -> NDArray:
    """Mean intensity plus texture of each point (N,); texture is a function of the point, so it deforms with it."""
    values = np.full(len(points), background)
    for i, t in enumerate(scene):
        where = tissue == i + 1
        values[where] = t.intensity
        if t.contrast:
            rng = np.random.default_rng([seed, i])
            values[where] += t.contrast * texture(points[where], t.grain_mm, rng)
    return values
