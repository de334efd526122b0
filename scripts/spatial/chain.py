# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A chain of transforms: affines and displacement fields that map a fixed point to the moving image, step by step.

Every step maps points in RAS mm. Images are interpolated once through the whole chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .geometry import LPS, Geometry, apply_affine, same_grid
from .warp import sample, sample_shares

SAME_GRID_VOX = 1e-3  # fields on grids closer than this are read voxel by voxel, not interpolated


@dataclass(frozen=True, eq=False)
class Linear:
    """An affine map of points; ``matrix`` is (4, 4), RAS mm to RAS mm."""

    matrix: NDArray


@dataclass(frozen=True, eq=False)
class Field:
    """A displacement field: ``point + u(point)``, u read linearly between voxels.

    ``u_lps`` is (*grid.shape, 3) LPS mm. More than half a voxel outside the grid, u is 0, as in ITK and ANTs.
    """

    u_lps: NDArray
    grid: Geometry


Step = Linear | Field


def inside_of(index: Tensor, shape: Sequence[int]) -> Tensor:
    """Whether voxels (n, ...) lie in a grid, which ends half a voxel beyond the last centre, as in ITK."""
    inside = torch.ones(index.shape[1:], dtype=torch.bool)
    for axis, size in enumerate(shape):
        inside &= (index[axis] >= -0.5) & (index[axis] <= size - 0.5)
    return inside


def read_linear(image: Tensor, index: Tensor, shape: Sequence[int]) -> Tensor:
    """Linear interpolation with repeated borders, as in ``sample``, in the layout of :class:`GridMap`.

    Args:
        image: (1, C, ..., X), first axis of the grid last.
        index: (n, ..., X) voxels, first axis of the grid first.
        shape: (X, ...) of the image.

    Returns:
        (C, ..., X).
    """
    n, count, threads = len(shape), index[0].numel(), torch.get_num_threads()
    share = -(-count // threads)
    places = torch.empty(n, threads * share)
    places[:, count:] = 0
    for axis, size in enumerate(shape):
        # With aligned corners an axis of one voxel is always read at that voxel.
        torch.add(torch.tensor(-1.0), index[axis].reshape(-1), alpha=2 / max(size - 1, 1), out=places[axis, :count])
    values = sample_shares(image, places.view(n, threads, share).movedim(0, -1))
    return values[:, :count].reshape(-1, *index.shape[1:])


def displacement_at(field: Field, index: Tensor, *, beyond: str = "zero") -> Tensor:
    """Displacement (3, ...) LPS mm of a field of n dimensions at voxels (n, ...) of its grid.

    Outside the grid it is 0, or with ``beyond="border"`` that of the nearest border voxel.
    """
    n = field.grid.ndim
    values = torch.from_numpy(np.moveaxis(np.asarray(field.u_lps, np.float32), -1, 0))[None]
    places = index.reshape(1, n, -1, *[1] * (n - 1)).float()
    u = sample(values, places)[0].reshape(3, *index.shape[1:]).to(index.dtype)
    if beyond == "border":
        return u
    return u * inside_of(index, field.grid.shape)


def map_points(steps: Sequence[Step], points_ras: NDArray) -> NDArray:
    """Maps points (L, 3) RAS mm through a chain, from the first step to the last."""
    points = np.asarray(points_ras, np.float64)
    for step in steps:
        if isinstance(step, Linear):
            points = apply_affine(step.matrix, points)
        else:
            index = apply_affine(np.linalg.inv(step.grid.affine), points)[:, : step.grid.ndim]
            u = displacement_at(step, torch.from_numpy(np.ascontiguousarray(index.T)))
            points = points + u.numpy().T @ LPS[:3, :3]
    return points


class GridMap:
    """Maps the voxels of a grid into another grid, slab by slab, without a coordinate array of the whole grid.

    The state along the chain is ``M i + sum_k L_k u_k`` with the voxel index i and the displacements u_k so far:
    affines change only the small matrices, and a first field on the grid of the reference is read, not interpolated.
    Slabs are cut along the last axis and laid out with the first axis fastest, as NIfTI stores them.

    Args:
        steps: the chain, from the reference's world to the target's world.
        reference: grid whose voxels are mapped, n dimensions.
        target: grid in whose voxels the result is given, n dimensions.
    """

    def __init__(self, steps: Sequence[Step], reference: Geometry, target: Geometry) -> None:
        self.steps, self.reference, self.target = tuple(steps), reference, target
        self.to_target = np.linalg.inv(target.affine)
        first = next(iter(self.steps), None)
        self._direct = isinstance(first, Field) and same_grid(first.grid, reference, SAME_GRID_VOX)
        self._values: dict[int, Tensor] = {}

    def __call__(self, start: int, stop: int) -> Tensor:
        """(n, stop - start, ..., X) float32 voxels of the target, of slices start to stop of the last axis."""
        base, terms = self.reference.affine, []
        for k, step in enumerate(self.steps):
            if isinstance(step, Linear):
                base = step.matrix @ base
                terms = [(step.matrix[:3, :3] @ m, u) for m, u in terms]
                continue
            if k == 0 and self._direct:
                u = torch.from_numpy(step.u_lps[..., start:stop, :]).permute(*reversed(range(step.u_lps.ndim)))
            else:
                u = self._interpolated(k, step, base, terms, start, stop)
            terms = [*terms, (LPS[:3, :3], u)]
        return self._combine(self.to_target, self.target.ndim, base, terms, start, stop)

    def _interpolated(self, k: int, field: Field, base, terms, start: int, stop: int) -> Tensor:
        index = self._combine(np.linalg.inv(field.grid.affine), field.grid.ndim, base, terms, start, stop)
        if k not in self._values:
            # With the components of a voxel adjacent in memory, a lookup touches a third of the cache lines.
            u = torch.from_numpy(field.u_lps).float().movedim(-1, 0).permute(0, *range(field.grid.ndim, 0, -1))
            self._values[k] = u.movedim(0, -1).contiguous().movedim(-1, 0)[None]
        return read_linear(self._values[k], index, field.grid.shape).mul_(inside_of(index, field.grid.shape))

    def _combine(self, matrix: NDArray, n: int, base, terms, start: int, stop: int) -> Tensor:
        m = (matrix @ base)[:n]
        sizes = [*self.reference.shape[:-1], stop - start]
        offset = m[:, 3] + m[:, self.reference.ndim - 1] * start
        result = torch.empty(n, *reversed(sizes))
        for c in range(n):
            total = torch.tensor(offset[c], dtype=torch.float64)
            for axis, size in enumerate(sizes):
                # A sum of one vector per axis: the affine part costs one pass over the slab.
                line = (torch.arange(size, dtype=torch.float64) * float(m[c, axis])).view(-1, *[1] * axis)
                if axis < len(sizes) - 1:
                    total = total + line
            torch.add(total.float(), line.float(), out=result[c])
            for linear, u in terms:
                for j, weight in enumerate((matrix[:3, :3] @ linear)[c]):
                    if abs(weight) > 1e-12:
                        result[c].add_(u[j], alpha=float(weight))
        return result


def displacements(there: GridMap, here: GridMap) -> NDArray:
    """Where one map takes every voxel of a grid, less where another takes it, (n, *grid.shape) float32."""
    u = np.empty((there.target.ndim, *reversed(there.reference.shape)), np.float32)
    for k in range(there.reference.shape[-1]):
        u[:, k : k + 1] = (there(k, k + 1) - here(k, k + 1)).numpy()
    return u.transpose(0, *range(u.ndim - 1, 0, -1))
