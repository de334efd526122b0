# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Contour-aware loss: Chamfer distance of the moved and the fixed contour, in mm on the fixed grid (equation 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, find_objects
from torch import Tensor

from ..spatial.warp import check_ddf, sample, warp
from .pair import LossPair

THICK = 2.5  # an axis whose voxels are this many times as long as the shortest is the normal of a stack of slices
BAND = 4.0  # signed distances are clamped here, in voxels; a contour needs no more


def contour_axes(spacing: Sequence[float]) -> list[int]:
    """Axes along which contours are located: all, or those in the plane of a stack of thick slices.

    Across thick slices most "contour" voxels are the interiors of the end caps, which are not outlines.
    """
    return [axis for axis, mm in enumerate(spacing) if mm < THICK * min(spacing)]


def signed_distance(mask: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Signed distance (*shape) float32 to the contour of a mask in voxels, negative inside, clamped to ``BAND``.

    Unlike a mask, it is linear across the contour, so interpolated values cross zero at the true place. Distances are
    measured along ``axes``.
    """
    sampling = [1.0 if axis in axes else 1e4 for axis in range(mask.ndim)]
    sides = []
    for side in (~mask, mask):
        far = distance_transform_edt(side, sampling) if not side.all() else np.full(mask.shape, np.inf)
        sides.append(np.clip(far - 0.5, 0, BAND))
    return (sides[0] - sides[1]).astype(np.float32)


def crossings(inside: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Pairs of neighbouring voxels on either side of a contour; the border of the image is not a contour.

    Args:
        inside: (*shape) bool.
        axes: along which neighbours are compared.

    Returns:
        (P, n) integer indices of the voxel before, and of the voxel after, the contour.
    """
    before, step = [], []
    for axis in axes:
        found = inside.diff(dim=axis).nonzero()
        before.append(found)
        step.append(torch.eye(inside.ndim, dtype=torch.long, device=inside.device)[axis].expand_as(found))
    before = torch.cat(before)
    return before, before + torch.cat(step)


def some(points: Tensor, max_points: int | None) -> Tensor:
    """Indices of all points (P, n), or of a random subset of this size if there are more."""
    if max_points is None or len(points) <= max_points:
        return torch.arange(len(points), device=points.device)
    return torch.randperm(len(points))[:max_points].to(points.device)


def moved_contour(
    ddf: Tensor, distance: Tensor, corner: Sequence[int], axes: Sequence[int], window: tuple[slice, ...],
    max_points: int | None,
) -> Tensor:  # fmt: skip
    """Points where the warped signed distance crosses zero, differentiable through the field.

    Args:
        ddf: (1, n, *shape) voxels.
        distance: (*crop) signed distance of the moving structure in a part of the moving image.
        corner: index of the first voxel of that part.
        axes: along which the contour is located.
        window: part of the fixed grid that contains the moved structure.
        max_points: largest number of points.

    Returns:
        (P, n) fixed voxels.
    """
    image, corner = distance[None, None], ddf.new_tensor(corner)

    def value(points: Tensor) -> Tensor:
        """Warped distance (P,) at integer fixed voxels (P, n)."""
        moving = points + ddf[0][(slice(None), *points.unbind(dim=1))].T - corner
        return sample(image, moving.T.reshape(1, ddf.shape[1], -1, *[1] * (ddf.shape[1] - 1)))[0, 0].flatten()

    # The contour is located without a graph; the gradient flows through the two values next to each crossing.
    with torch.no_grad():
        axes_of = [torch.arange(s.start, s.stop, device=ddf.device) for s in window]
        grid = torch.stack(torch.meshgrid(*axes_of, indexing="ij"), dim=-1)
        inside = (value(grid.flatten(0, -2)) < 0).view(grid.shape[:-1])
        before, after = crossings(inside, axes)
        kept, start = some(before, max_points), torch.tensor([s.start for s in window], device=ddf.device)
        before, after = before[kept] + start, after[kept] + start
    a, b = value(before), value(after)
    return before + (a / (a - b))[:, None] * (after - before)


def chamfer(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of each point to the nearest point of the other set, summed over the two directions.

    Args:
        a: (P, n) points.
        b: (Q, n) points in the same unit.

    Returns:
        scalar, unit squared.

    Raises:
        ValueError: a set is empty.

    Reference:
        equation 7 of Xu et al., IPMI 2025; Fan et al., CVPR 2017.
    """
    if not len(a) or not len(b):
        raise ValueError(f"The Chamfer distance needs points in both sets, got {len(a)} and {len(b)}.")
    # The P x Q table stays out of the backward pass: only the nearest distances have a gradient.
    with torch.no_grad():
        table = torch.cdist(a, b)
        to_b, to_a = table.argmin(dim=1), table.argmin(dim=0)
    return ((a - b[to_b]) ** 2).sum(dim=1).mean() + ((b - a[to_a]) ** 2).sum(dim=1).mean()


@dataclass
class Contour:
    """Chamfer distance of the moved and the fixed contours in mm squared; a :class:`scripts.losses.pair.Term`.

    The contours are compared on the fixed grid. Mean over the structures with a contour in both images, 0 if there are
    none. A structure that the field moves out of the image costs as much as without a field.

    Attributes:
        weight: in the loss.
        max_points: for each contour; the memory grows with its square. None keeps all.
    """

    weight: float = 0.005
    max_points: int | None = 1024

    def __call__(self, ddf: Tensor, pair: LossPair) -> Tensor:
        check_ddf(ddf)
        spacing, axes = ddf.new_tensor(list(pair.spacing)), contour_axes(pair.spacing)
        with torch.no_grad():
            moved = warp(pair.labels[None, :1].to(ddf), ddf, "nearest")[0, 0].round()
        windows = find_objects(moved.int().cpu().numpy(), pair.structures)
        losses = []
        for number, (distance, corner, still, target) in outlines(pair, axes).items():
            still, target = (points[some(points, self.max_points)] for points in (still, target))
            found, window = still[:0], windows[number - 1]
            if window is not None:
                # The nearest-voxel labels and the distance disagree by less than a voxel.
                window = tuple(slice(max(0, w.start - 2), min(s, w.stop + 2)) for w, s in zip(window, moved.shape))
                found = moved_contour(ddf, distance.to(ddf), corner, axes, window, self.max_points)
            losses.append(chamfer((found if len(found) else still) * spacing, target * spacing))
        return torch.stack(losses).mean() if losses else ddf.sum() * 0


class Outline(NamedTuple):
    """What the field does not change about a structure with a contour in both images.

    Attributes:
        distance: (*box) signed distance to the contour in the moving image, in the box of the structure.
        corner: first voxel of the box.
        moving: (P, n) voxels of the moving image, halfway between a voxel inside and one outside.
        fixed: (Q, n) voxels of the fixed image, likewise.
    """

    distance: Tensor
    corner: list[int]
    moving: Tensor
    fixed: Tensor


def outlines(pair: LossPair, axes: Sequence[int]) -> dict[int, Outline]:
    """The outlines of the structures by their label, kept in the pair: its labels stay while a field is optimised."""
    if pair.outlines is None:
        labels, margin = pair.labels[0].round().int().cpu().numpy(), int(BAND) + 2
        pair.outlines = {}
        for number, box in enumerate(find_objects(labels, pair.structures), start=1):
            points = () if box is None else [sum(crossings(x.round() == number, axes)) / 2 for x in pair.labels]
            if points and all(map(len, points)):
                box = tuple(slice(max(0, b.start - margin), b.stop + margin) for b in box)
                distance = torch.from_numpy(signed_distance(labels[box] == number, axes)).to(pair.labels.device)
                pair.outlines[number] = Outline(distance, [b.start for b in box], *points)
    return pair.outlines
