# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A phantom pair: two rendered images with labels, landmarks and the true displacement field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from .motion import Motion
from .scene import Tissue, intensities, paint

LANDMARKS = 24  # placed inside labelled structures of the fixed image


@dataclass(frozen=True)
class PhantomPair:
    """Two images of one scene, the fixed one deformed.

    Attributes:
        moving: (X, Y[, Z]) float32.
        fixed: (X, Y[, Z]) float32, perhaps on another grid.
        moving_label: anatomical labels of the moving image, uint8.
        fixed_label: anatomical labels of the fixed image, uint8.
        moving_tissue: every tissue numbered, uint8: exact masks of all visible regions.
        fixed_tissue: the same of the fixed image.
        ddf: (2 or 3, X, Y[, Z]) float32 on the fixed grid, in fixed voxels, pull convention:
            ``moving(x + ddf(x))`` is the fixed scene at x, both read in fixed voxels.
        moving_affine: (4, 4) voxel to RAS mm.
        fixed_affine: (4, 4) voxel to RAS mm.
        moving_landmarks: (L, 3) RAS mm, the same points as ``fixed_landmarks`` moved by the true motion.
        fixed_landmarks: (L, 3) RAS mm.
        names: structure name of each label value.
        modality: "mr" or "ct".
    """

    moving: NDArray
    fixed: NDArray
    moving_label: NDArray
    fixed_label: NDArray
    moving_tissue: NDArray
    fixed_tissue: NDArray
    ddf: NDArray
    moving_affine: NDArray
    fixed_affine: NDArray
    moving_landmarks: NDArray
    fixed_landmarks: NDArray
    names: dict[int, str]
    modality: str


@dataclass(frozen=True)
class Imaging:
    """How a scene becomes an image: grid, blur, noise.

    Attributes:
        shape: voxels along x, y[, z].
        spacing: mm along x, y[, z].
        background: intensity outside every tissue.
        noise: standard deviation of the noise.
        rician: magnitude noise as in MR, else Gaussian.
        bias: relative amplitude of a smooth multiplicative field (MR coil sensitivity).
        blur: standard deviation of the point spread in voxels, in-plane.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    background: float
    noise: float
    rician: bool
    bias: float
    blur: float = 0.6


def imaging_of(shape: Sequence[int], spacing: Sequence[float], **how: float | bool) -> Imaging:
    """An :class:`Imaging` on a 2-D or 3-D grid; ValueError for sizes and spacings of other or unequal numbers."""
    if len(shape) not in (2, 3) or len(shape) != len(spacing):
        raise ValueError(f"A phantom needs 2 or 3 sizes and as many spacings, got shape {shape}, spacing {spacing}.")
    return Imaging(tuple(shape), tuple(spacing), **how)


def grid_points(shape: tuple[int, ...], spacing: tuple[float, ...]) -> NDArray:
    """Canonical mm coordinates (N, 3) of a centred grid; a 2-D grid lies in the plane z = 0."""
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, spacing)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))
    return np.pad(points, ((0, 0), (0, 3 - len(shape))))


def grid_affine(imaging: Imaging, orientation: NDArray) -> NDArray:
    """Voxel to RAS affine of a centred grid whose canonical axes (left, posterior, superior) are turned."""
    flat = [1] * (3 - len(imaging.shape))
    affine = np.eye(4)
    affine[:3, :3] = orientation @ np.diag([-1, -1, 1]) @ np.diag([*imaging.spacing, *flat])
    affine[:3, 3] = -affine[:3, :3] @ (np.array([*imaging.shape, *flat]) - 1) / 2
    return affine


def render(scene: list[Tissue], points: NDArray, imaging: Imaging, texture_seed: int, rng: np.random.Generator):
    """Renders a scene at points (N, 3) of its own frame: image float32, tissue numbers and labels uint8."""
    tissue = paint(scene, points)
    values = intensities(scene, tissue, points, imaging.background, texture_seed).reshape(imaging.shape)
    sigma = (imaging.blur, imaging.blur, 0.0)[: len(imaging.shape)]
    values = gaussian_filter(values, sigma)
    if imaging.bias:
        smooth = gaussian_filter(rng.normal(size=imaging.shape), [n / 4 for n in imaging.shape])
        values = values * (1 + imaging.bias * smooth / (np.abs(smooth).max() + 1e-12))
    if imaging.rician:
        noise = rng.normal(size=(2, *imaging.shape)) * imaging.noise
        values = np.hypot(values + noise[0], noise[1])
    else:
        values = values + rng.normal(size=imaging.shape) * imaging.noise
    labels = np.array([0, *(t.label for t in scene)], np.uint8)[tissue]
    return values.astype(np.float32), tissue.reshape(imaging.shape), labels.reshape(imaging.shape)


def make_pair(
    scene: list[Tissue],
    motion: Motion,
    moving: Imaging,
    fixed: Imaging,
    modality: str,
    seed: int,
    orientation: NDArray | None = None,
) -> PhantomPair:
    """Renders the scene as moving image and, seen through the motion, as fixed image.

    Args:
        scene: tissues in the frame of the moving image.
        motion: maps points of the fixed image to points of the moving image, canonical mm.
        moving: imaging of the moving image.
        fixed: imaging of the fixed image; shape and spacing may differ.
        modality: "mr" or "ct".
        seed: noise, bias and landmarks; textures belong to the scene and deform with it.
        orientation: (3, 3) rotation that makes both affines oblique.
    """
    rng = np.random.default_rng([seed, 1])
    orientation = np.eye(3) if orientation is None else orientation
    ndim = len(fixed.shape)
    fixed_points = grid_points(fixed.shape, fixed.spacing)
    seen = motion(fixed_points)
    moving_points = grid_points(moving.shape, moving.spacing)
    moving_image, moving_tissue, moving_label = render(scene, moving_points, moving, seed, rng)
    fixed_image, fixed_tissue, fixed_label = render(scene, seen, fixed, seed, rng)
    displacement = (seen - fixed_points)[:, :ndim] / np.asarray(fixed.spacing)
    labelled = np.flatnonzero(fixed_label)
    chosen = rng.choice(labelled, size=min(LANDMARKS, len(labelled)), replace=False)
    to_ras = orientation @ np.diag([-1.0, -1.0, 1.0])
    return PhantomPair(
        moving=moving_image,
        fixed=fixed_image,
        moving_label=moving_label,
        fixed_label=fixed_label,
        moving_tissue=moving_tissue,
        fixed_tissue=fixed_tissue,
        ddf=np.moveaxis(displacement.reshape(*fixed.shape, ndim), -1, 0).astype(np.float32),
        moving_affine=grid_affine(moving, orientation),
        fixed_affine=grid_affine(fixed, orientation),
        moving_landmarks=seen[chosen] @ to_ras.T,
        fixed_landmarks=fixed_points[chosen] @ to_ras.T,
        names={t.label: t.name for t in scene if t.label},
        modality=modality,
    )
