# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Voxel grids in patient space, and resampling between them in a single interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .warp import identity_grid, sample

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS and back
SLAB_VOXELS = 1_000_000
EXACT = 2**24  # single precision represents all integers up to here
HEADER_ROUNDING_VOX = 0.1  # files of the same grid differ by rounding in their headers
FARTHEST_MM = 1e6  # anything farther away is a damaged header, and overflows in single precision


@dataclass(frozen=True)
class Geometry:
    """A voxel grid in space.

    Attributes:
        shape: (X, Y) or (X, Y, Z) voxels.
        affine: (4, 4) float64, voxel index (i, j, k) to RAS mm; a 2-D grid is the plane k = 0.
    """

    shape: tuple[int, ...]
    affine: NDArray

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size in mm along each array axis."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0)[: self.ndim])

    def corners_ras(self) -> NDArray:
        """The 4 or 8 corner voxels' outer corners, (K, 3) RAS mm."""
        return apply_affine(self.affine, corners([(-0.5, s - 0.5) for s in self.shape]))

    def resized(self, shape: tuple[int, ...]) -> Geometry:
        """The same box with another number of voxels."""
        scale = np.eye(4)
        for i, (old, new) in enumerate(zip(self.shape, shape)):
            scale[i, i] = old / new
            scale[i, 3] = (old / new - 1) / 2
        return Geometry(tuple(shape), self.affine @ scale)

    def cropped(self, box: Sequence[slice]) -> Geometry:
        """The part of the grid in a box of voxels."""
        shift = np.eye(4)
        shift[: self.ndim, 3] = [side.start for side in box]
        return Geometry(tuple(side.stop - side.start for side in box), self.affine @ shift)


def reordered(grid: Geometry, order: Sequence[int], signs: Sequence[float]) -> Geometry:
    """The same voxels of a 3-D grid with its axes in another order, reversed where the sign of the old axis is -1."""
    turn = np.zeros((4, 4))  # voxels of the result to voxels of the grid
    turn[3, 3] = 1
    for new, old in enumerate(order):
        turn[old, new] = signs[old]
        turn[old, 3] = 0 if signs[old] > 0 else grid.shape[old] - 1
    return Geometry(tuple(grid.shape[old] for old in order), grid.affine @ turn)


def coarser(shape: Sequence[int], spacing: Sequence[float], side: float, least: int = 2) -> tuple[int, ...]:
    """The shape of the grid over the same box whose voxels are about ``side`` mm; axes with longer voxels stay.

    No axis gets fewer than ``least`` voxels unless it has fewer already.
    """
    return tuple(n if s >= side else max(min(n, least), round(n * s / side)) for n, s in zip(shape, spacing))


def corners(ends: Sequence[tuple[float, float]]) -> NDArray:
    """Corners (K, 3) of a box with these ends along its 2 or 3 axes; the third index of a plane is 0."""
    return np.stack(np.meshgrid(*ends, *[(0.0,)] * (3 - len(ends)), indexing="ij"), axis=-1).reshape(-1, 3)


def apply_affine(affine: NDArray, points: NDArray) -> NDArray:
    """Maps points (..., 3) by a (4, 4) matrix."""
    return np.asarray(points) @ affine[:3, :3].T + affine[:3, 3]


def usable(affine: NDArray) -> bool:
    """Whether a (4, 4) affine is finite, invertible and of plausible size (below 1 km)."""
    if not np.all(np.isfinite(affine)) or np.abs(affine).max() > FARTHEST_MM:
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(lengths.min() > 1e-6 and abs(np.linalg.det(affine[:3, :3])) > 1e-12)


def extent_text(geometry: Geometry) -> str:
    """The bounding box of a grid as text, for messages."""
    low, high = geometry.corners_ras().min(axis=0), geometry.corners_ras().max(axis=0)
    return " x ".join(f"[{a:.0f}, {b:.0f}]" for a, b in zip(low, high)) + " mm RAS"


def grid_text(geometry: Geometry) -> str:
    """Size and voxel size of a grid as text, for messages."""
    return f"{' x '.join(map(str, geometry.shape))} voxels of {' x '.join(f'{s:.4g}' for s in geometry.spacing)} mm"


def same_grid(a: Geometry, b: Geometry, tolerance_vox: float = HEADER_ROUNDING_VOX) -> bool:
    """Whether the voxels of two grids coincide: no corner is farther from its partner than ``tolerance_vox``."""
    if a.shape != b.shape:
        return False
    index = corners([(0.0, s - 1.0) for s in a.shape])
    apart = apply_affine(np.linalg.inv(b.affine) @ a.affine, index) - index
    return bool(np.abs(apart[:, : a.ndim]).max() < tolerance_vox)


def told_apart(a: Geometry, b: Geometry) -> tuple[str, str]:
    """Texts that tell two grids apart by size and voxel size, or else by position, or else by direction."""

    def place(grid: Geometry) -> str:
        return f"first voxel at {grid.affine[:3, 3].round(3).tolist()} mm RAS"

    def axes(grid: Geometry) -> str:
        steps = (grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)).T
        return f"axes along {steps[: grid.ndim].round(4).tolist()} RAS"

    words = next((w for w in (grid_text, place) if w(a) != w(b)), axes)
    return words(a), words(b)


def overlap(a: Geometry, b: Geometry, transform: NDArray) -> bool:
    """Whether the bounding boxes of two grids overlap after ``transform`` (RAS mm) has moved ``a``.

    A plane has no thickness, so 2-D grids are compared in the plane of the first.
    """
    to_index = np.linalg.inv(b.affine) @ transform @ a.affine
    index = apply_affine(to_index, corners([(-0.5, s - 0.5) for s in a.shape]))
    low, high = index.min(axis=0)[: b.ndim], index.max(axis=0)[: b.ndim]
    return bool(np.all(high > -0.5) and np.all(low < np.asarray(b.shape) - 0.5))


def contains(grid: Geometry, points_ras: NDArray, margin_vox: float = 0.5) -> NDArray:
    """Which of the points (L, 3) RAS mm lie in a grid, (L,) bool; for a 2-D grid, anywhere above or below its plane.

    The grid ends ``margin_vox`` beyond the centres of its border voxels.
    """
    index = apply_affine(np.linalg.inv(grid.affine), points_ras)[:, : grid.ndim]
    return ((index >= -margin_vox) & (index <= np.asarray(grid.shape) - 1 + margin_vox)).all(axis=1)


def resample(
    image: Tensor,
    moving: Geometry,
    fixed: Geometry,
    transform: NDArray | None = None,
    ddf: Tensor | None = None,
    *,
    mode: str = "bilinear",
    fill: float | None = None,
) -> Tensor:
    """Brings an image to the fixed grid in one interpolation: field, initial transform and both affines together.

    Args:
        image: (C, *moving.shape).
        moving: grid of the image.
        fixed: grid of the result.
        transform: (4, 4) fixed world to moving world in RAS mm; identity if None.
        ddf: (1, n, *fixed.shape) in fixed voxels, applied before ``transform``; none if None.
        mode: interpolation, see :func:`scripts.spatial.warp.sample`.
        fill: value outside the moving image; None repeats its border.

    Returns:
        (C, *fixed.shape) float32.
    """
    n = fixed.ndim
    to_moving = np.linalg.inv(moving.affine) @ (np.eye(4) if transform is None else transform) @ fixed.affine
    m = torch.as_tensor(to_moving[:n, [*range(n), 3]], device=image.device, dtype=torch.float32)
    limit = torch.tensor(moving.shape, device=image.device).view(1, n, *[1] * n)
    result = torch.empty(image.shape[0], *fixed.shape, device=image.device)
    # Slab by slab: coordinates of a whole volume would take several times the memory of the field.
    slab = max(1, SLAB_VOXELS // max(1, int(np.prod(fixed.shape[1:]))))
    for start in range(0, fixed.shape[0], slab):
        stop = min(start + slab, fixed.shape[0])
        places = identity_grid((stop - start, *fixed.shape[1:]), image.device, torch.float32).clone()
        places[:, 0] += start
        if ddf is not None:
            places += ddf[:, :, start:stop].to(places)
        coordinates = torch.einsum("ij,bj...->bi...", m[:, :n], places) + m[:, n].view(1, n, *[1] * n)
        part = sample(image[None].float(), coordinates, mode)[0]
        if fill is not None:
            # Half a voxel beyond the last centre still belongs to the image, as in ITK.
            part.masked_fill_(~((coordinates >= -0.5) & (coordinates <= limit - 0.5)).all(dim=1), fill)
        result[:, start:stop] = part
    return result


def resample_map(
    labels: NDArray, moving: Geometry, fixed: Geometry, transform: NDArray | None = None, ddf: Tensor | None = None
) -> NDArray:
    """Brings labels (*moving.shape) to the fixed grid: nearest voxel, values and type unchanged, 0 outside.

    The other arguments are those of :func:`resample`.
    """
    values = None
    if np.abs(labels).max(initial=0) > EXACT:  # the large numbers of an atlas are replaced by their ranks
        values = np.unique(np.append(labels, 0).astype(labels.dtype))
        labels = np.searchsorted(values, labels)
    fill = 0 if values is None else int(np.searchsorted(values, 0))
    image = torch.from_numpy(labels.astype(np.float32))[None]
    found = resample(image, moving, fixed, transform, ddf, mode="nearest", fill=fill)[0].numpy()
    return found.astype(labels.dtype) if values is None else values[found.astype(np.int64)]


def world_displacement(ddf: NDArray, fixed: Geometry, transform: NDArray | None = None) -> NDArray:
    """Displacement in LPS mm, the initial transform included, as ITK defines it.

    Args:
        ddf: (n, *fixed.shape) fixed voxels.
        fixed: grid of the field.
        transform: (4, 4) fixed world to moving world, RAS mm.

    Returns:
        (*fixed.shape, 3): u with moving point = fixed point + u, LPS mm.
    """
    transform = np.eye(4) if transform is None else transform
    return np.stack([displacement_component(ddf, fixed, transform, c) for c in range(3)], axis=-1)


def displacement_component(
    ddf: NDArray, fixed: Geometry, transform: NDArray, component: int, start: int = 0
) -> NDArray:
    """One component of :func:`world_displacement`, (*shape) float64, of the slices from ``start`` of the last axis."""
    to_moving = LPS @ transform @ fixed.affine
    apart = (to_moving - LPS @ fixed.affine)[component]  # of the same voxel in both images
    result = np.full(ddf.shape[1:], apart[3])
    for axis, size in enumerate(ddf.shape[1:]):
        index = np.arange(size, dtype=np.float64) + (start if axis == fixed.ndim - 1 else 0)
        result += apart[axis] * index.reshape(-1, *[1] * (fixed.ndim - 1 - axis))
        result += to_moving[component, axis] * ddf[axis].astype(np.float64)
    return result


def voxel_displacement(u_lps: NDArray, fixed: Geometry) -> NDArray:
    """Inverse of :func:`world_displacement` without a transform: (*shape, 3) LPS mm to (n, *shape) fixed voxels."""
    shift = np.asarray(u_lps, np.float64) @ LPS[:3, :3].T @ np.linalg.inv(fixed.affine[:3, :3]).T
    return np.moveaxis(shift[..., : fixed.ndim], -1, 0)
