# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Smooth invertible maps of points, analytic or integrated pointwise: the true displacement is known everywhere."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Motion = Callable[[NDArray], NDArray]
STEPS = 8  # of Runge-Kutta


def compose(*motions: Motion) -> Motion:
    """Applies the motions from first to last."""

    def moved(points: NDArray) -> NDArray:
        for motion in motions:
            points = motion(points)
        return points

    return moved


def affine(matrix: NDArray, translation: NDArray) -> Motion:
    """X -> matrix x + translation, in mm."""
    return lambda points: points @ np.asarray(matrix).T + np.asarray(translation)


def in_plane(motion: Motion) -> Motion:
    """The same motion without its z component."""

    def moved(points: NDArray) -> NDArray:
        return np.column_stack([motion(points)[:, :2], points[:, 2]])

    return moved


def radial(
    center: NDArray, radius_mm: Callable[[NDArray], NDArray], knots: NDArray, *, twist_deg: float = 0.0
) -> Motion:
    """Radial expansion about a long axis parallel to z, the identity beyond the last knot.

    Args:
        center: (2,) axis position in the axial plane, mm.
        radius_mm: maps z (N,) to the radius (N,) that counts as 1.
        knots: (K, 2) increasing pairs (normalised radius before, after), ending with an identity pair.
        twist_deg: rotation on the axis, fading to nothing at the last knot.
    """
    outer = knots[-1, 0]
    # The extra identity knot pins the slope to 1 at the seam, which keeps the map differentiable there.
    x = np.concatenate([[0.0], knots[:, 0], [outer * 1.25]])
    y = np.concatenate([[0.0], knots[:, 1], [outer * 1.25]])
    ratio_at_zero = y[1] / x[1]
    curve = PchipInterpolator(x, y)

    def moved(points: NDArray) -> NDArray:
        scale = radius_mm(points[:, 2])
        offset = (points[:, :2] - center) / scale[:, None]
        rho = np.linalg.norm(offset, axis=1)
        inner = rho < outer * 1.25
        safe = np.maximum(rho, 1e-9)
        gain = np.where(rho < 1e-6, ratio_at_zero, np.where(inner, curve(np.minimum(safe, outer * 1.25)) / safe, 1.0))
        fade = np.clip(1 - (rho / outer) ** 2, 0, None) ** 2
        angle = np.deg2rad(twist_deg) * fade
        c, s = np.cos(angle), np.sin(angle)
        turned = np.stack([c * offset[:, 0] - s * offset[:, 1], s * offset[:, 0] + c * offset[:, 1]], axis=1)
        result = points.copy()
        result[:, :2] = center + turned * (gain * scale)[:, None]
        return result

    return moved


def flow(centers: NDArray, velocities: NDArray, width_mm: float, *, planar: bool = False) -> Motion:
    """Flow of a sum of Gaussian velocity bumps for unit time (Runge-Kutta 4): a diffeomorphism.

    Bumps have centers (K, 3) in mm, velocities (K, 3) in mm per unit time and the standard deviation ``width_mm``;
    ``planar`` leaves z alone.
    """
    velocities = velocities * [1, 1, 0 if planar else 1]

    def velocity(points: NDArray) -> NDArray:
        # |p - c|^2 by one matrix product: the (N, K, 3) differences would cost most of the time of a 3-D phantom.
        distance2 = (points**2).sum(axis=1)[:, None] - 2 * points @ centers.T + (centers**2).sum(axis=1)
        return np.exp(-distance2 / (2 * width_mm**2)) @ velocities

    def moved(points: NDArray) -> NDArray:
        h = 1.0 / STEPS
        for _ in range(STEPS):
            k1 = velocity(points)
            k2 = velocity(points + h / 2 * k1)
            k3 = velocity(points + h / 2 * k2)
            k4 = velocity(points + h * k3)
            points = points + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return points

    return moved
