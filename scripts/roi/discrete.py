# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A displacement found by search: every cell of a coarse grid tries all displacements of a window.

Descent from the identity ends in the nearest minimum; a search does not. The costs of all displacements are computed,
then two simple problems are solved in turn: the best displacement of each cell, and a smooth field close to these. The
coupling between them grows until both agree. Both directions are searched and made inverse to each other.

References:
    Steinbrücker et al., ICCV 2009, "Large displacement optical flow computation without warping"; Heinrich et al.,
    MICCAI 2014, "Non-parametric discrete registration with convex optimisation"; Siebert et al., IEEE TMI 2024,
    "ConvexAdam".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.errors import InputError
from ..common.threads import side_by_side
from ..losses.similarity import local_mean
from ..spatial.geometry import coarser
from ..spatial.warp import warp


@dataclass(frozen=True)
class SearchSettings:
    """How the search is done.

    Attributes:
        cell: side of a cell in voxels of the features, along the axis with the shortest ones; cells are cubic in mm
            unless a voxel is longer than that.
        reach: half width of the window in cells, in mm the same along every axis.
        couplings: weight of the distance to the smooth field in each round, cost per cell squared.
        rounds: iterations that make both directions inverse to each other.
        max_costs: most numbers in the table of costs, which bounds the memory; larger grids get larger cells.
    """

    cell: float = 4.0
    reach: int = 4
    couplings: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
    rounds: int = 15
    max_costs: int = 80_000_000

    def __post_init__(self) -> None:
        if self.cell < 1 or self.reach < 1 or not self.couplings:
            raise InputError(f"The search needs cell and reach of at least 1, got {self.cell} and {self.reach}.")


@dataclass(frozen=True, eq=False)
class Searched:
    """What the search found, on its grid of cells.

    Attributes:
        forward: (1, n, *cells) displacement from the fixed to the moving image, in cells.
        backward: (1, n, *cells) from the moving to the fixed image.
        width: (1, 1, *cells) in [0, 1], width of the minimum of the costs: 0 where one displacement is far better than
            all others, 1 where all are equal; None unless asked for.
    """

    forward: Tensor
    backward: Tensor
    width: Tensor | None


def search_grid(
    shape: Sequence[int], spacing: Sequence[float], settings: SearchSettings
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cells along each axis, and the half width of the window in cells."""
    finest = min(d for d, s in zip(spacing, shape) if s > 1) if max(shape) > 1 else 1.0
    side = settings.cell * finest
    while True:
        cells = coarser(shape, spacing, side, 1)
        sides = [s * d / c for s, d, c in zip(shape, spacing, cells)]
        reach = tuple(min(round(settings.reach * side / w), c - 1) for w, c in zip(sides, cells))
        if math.prod(cells) * math.prod(2 * r + 1 for r in reach) <= settings.max_costs or max(cells) <= 2:
            return cells, reach
        side *= 1.1


def search(
    moving: Tensor,
    fixed: Tensor,
    spacing: Sequence[float],
    settings: SearchSettings = SearchSettings(),
    *,
    masks: tuple[Tensor, Tensor] | None = None,
    weights: Tensor | None = None,
    valid: tuple[Tensor, Tensor] | None = None,
    width: bool = True,
) -> Searched:
    """Searches the displacement of every cell.

    Args:
        moving: (C, *shape) features; the cost of a displacement is the mean squared difference over the channels.
        fixed: (C, *shape).
        spacing: mm along each axis.
        settings: see :class:`SearchSettings`.
        masks: moving and fixed masks (K, *any grid) that correspond, uint8 0..255 or float in [0, 1]; the squared
            difference of each is added with its weight.
        weights: (K,) of the masks; 1 if None.
        valid: moving and fixed weight (*shape) in [0, 1]; where either image is not valid, the cost is the mean of the
            displacements of the cell.
        width: also measures the width of the minimum.

    Raises:
        ValueError: features of different shapes.
    """
    if moving.shape != fixed.shape:
        raise ValueError(f"Features must match, got {tuple(moving.shape)} and {tuple(fixed.shape)}.")
    cells, reach = search_grid(moving.shape[1:], spacing, settings)
    pooled = [_pool(x, cells) for x in (moving, fixed)]
    looks = None if valid is None else [_pool(v[None], cells) for v in valid]
    regions = None
    if masks is not None and len(masks[0]):
        regions = [_coverage(x, cells) for x in masks]
        weights = torch.ones(len(regions[0])) if weights is None else weights

    def one_way(way: int) -> tuple[Tensor, Tensor | None]:
        costs = _costs(*pooled[::way], reach, None if looks is None else looks[::way])
        if regions is not None:
            _add_masks(costs, *regions[::way], weights.tolist(), reach)
        _smooth_costs(costs)
        return _couple(costs, reach, settings.couplings), _width(costs, reach) if width and way == 1 else None

    (forward, spread), (backward, _) = side_by_side(lambda: one_way(1), lambda: one_way(-1))
    return Searched(*inverse_consistent(forward, backward, settings.rounds), spread)


def window(reach: Sequence[int]) -> list[tuple[int, ...]]:
    """All displacements of the window in the order of the table of costs."""
    return list(itertools.product(*[range(-r, r + 1) for r in reach]))


def _pool(x: Tensor, cells: tuple[int, ...]) -> Tensor:
    return F.interpolate(x[None].float(), cells, mode="area")[0]


def _coverage(masks: Tensor, cells: tuple[int, ...]) -> Tensor:
    if masks.is_floating_point():
        return _pool(masks, cells)
    return torch.cat([_pool(mask[None], cells) for mask in masks]) / 255


def _padded(x: Tensor, reach: Sequence[int], mode: str = "replicate") -> Tensor:
    return F.pad(x[None], [r for r in reversed(reach) for _ in range(2)], mode=mode)[0]


def _at(padded: Tensor, reach: Sequence[int], offset: Sequence[int], cells: Sequence[int]) -> Tensor:
    return padded[(slice(None), *(slice(r + o, r + o + s) for r, o, s in zip(reach, offset, cells)))]


def _costs(moving: Tensor, fixed: Tensor, reach: Sequence[int], valid: list[Tensor] | None) -> Tensor:
    """Table (D, *cells) of the mean squared difference of the fixed cell and the displaced moving cell."""
    cells = fixed.shape[1:]
    padded = _padded(moving, reach)
    costs = fixed.new_empty(math.prod(2 * r + 1 for r in reach), *cells)
    for row, offset in zip(costs, window(reach)):
        torch.mean((fixed - _at(padded, reach, offset, cells)).square_(), dim=0, out=row)
    if valid is None:
        return costs
    # Displacements out of view get the mean cost of the others: a lower one would draw cells out, a higher one in.
    seen = _padded(valid[0], reach)
    total, count = torch.zeros_like(costs[0]), torch.zeros_like(costs[0])
    for row, offset in zip(costs, window(reach)):
        look = (valid[1] * _at(seen, reach, offset, cells))[0]
        total += row.mul_(look)
        count += look
    usual = total / count.clamp_min(1e-6)
    for row, offset in zip(costs, window(reach)):
        row += usual * (1 - valid[1] * _at(seen, reach, offset, cells))[0]
    return costs


def _add_masks(costs: Tensor, moving: Tensor, fixed: Tensor, weights: list[float], reach: Sequence[int]) -> None:
    """Adds the weighted squared differences of masks; only the cells of a mask are multiplied."""
    cells = fixed.shape[1:]
    scale = fixed.new_tensor(weights).view(-1, *[1] * len(cells))
    alone = (scale * fixed.square()).sum(dim=0)
    other = _padded((scale * moving.square()).sum(dim=0, keepdim=True), reach)
    for row, offset in zip(costs, window(reach)):
        row += alone + _at(other, reach, offset, cells)[0]
    for own, displaced, weight in zip(fixed, moving, weights):
        places = own.nonzero()
        if not len(places):
            continue
        low, high = places.amin(dim=0).tolist(), (places.amax(dim=0) + 1).tolist()
        box = tuple(slice(a, b) for a, b in zip(low, high))
        patch = _padded(displaced[None], reach)[0]
        patch = patch[tuple(slice(a, b + 2 * r) for a, b, r in zip(low, high, reach))]
        for axis, (a, b) in enumerate(zip(low, high)):
            patch = patch.unfold(axis, b - a, 1)
        product = patch.reshape(-1, *own[box].shape) * own[box]
        costs[(slice(None), *box)] -= 2 * weight * product


def _smooth_costs(costs: Tensor) -> None:
    """Averages every displacement's costs over neighbouring cells, in place.

    Sums of shifted tables take a third of the time of average pooling on a CPU.
    """
    for part in costs.split(32):
        for axis in range(1, part.ndim):
            size = part.shape[axis]
            if size > 1:
                before, after = part.narrow(axis, 0, size - 1), part.narrow(axis, 1, size - 1)
                total = part.clone()
                total.narrow(axis, 1, size - 1).add_(before)
                total.narrow(axis, 0, size - 1).add_(after)
                ends = total.index_select(axis, torch.tensor([0, size - 1], device=part.device)) / 2
                part.copy_(total.div_(3))
                part.narrow(axis, 0, 1).copy_(ends.narrow(axis, 0, 1))
                part.narrow(axis, size - 1, 1).copy_(ends.narrow(axis, 1, 1))


def _couple(costs: Tensor, reach: Sequence[int], couplings: Sequence[float]) -> Tensor:
    """Best displacement of each cell and smooth field in turn; (1, n, *cells) in cells."""
    smooth, offsets = None, window(reach)
    # No motion comes first, so that it is chosen where all costs are equal.
    order = sorted(range(len(offsets)), key=lambda number: any(offsets[number]))
    for pull in (0.0, *couplings):
        best = torch.full_like(costs[0], torch.inf)
        index = torch.zeros_like(best, dtype=torch.int32)
        # The penalty is a sum over axes, so it is computed once for every step along each of them.
        steps = None
        if smooth is not None:
            steps = [[pull * (smooth[0, a] - step).square() for step in range(-r, r + 1)] for a, r in enumerate(reach)]
        for number in order:
            cost = costs[number]
            if steps is not None:
                cost = cost.clone()
                for a, o in enumerate(offsets[number]):
                    cost += steps[a][o + reach[a]]
            better = cost < best
            best = torch.minimum(cost, best)
            index.masked_fill_(better, number)
        chosen = costs.new_tensor(offsets)[index.long()].movedim(-1, 0)[None]
        smooth = local_mean(chosen, [3] * len(reach))
    return smooth


def _width(costs: Tensor, reach: Sequence[int]) -> Tensor:
    """Spread of the good displacements, as a share of that of the whole window."""
    places = costs.new_tensor(window(reach))
    lowest, usual = costs.amin(dim=0), costs.mean(dim=0)
    total, first, second = torch.zeros_like(lowest), 0.0, torch.zeros_like(lowest)
    first = torch.zeros(len(reach), *lowest.shape)
    for row, place in zip(costs, places):
        share = torch.exp(-8 * (row - lowest) / (usual - lowest).clamp_min(1e-9))
        total += share
        first += share * place.view(-1, *[1] * lowest.ndim)
        second += share * place.square().sum()
    spread = second / total - (first / total).square().sum(dim=0)
    return (spread / places.square().sum(dim=1).mean()).clamp(0, 1).sqrt()[None, None]


def inverse_consistent(forward: Tensor, backward: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Moves two fields (1, n, ...) step by step towards being each other's inverse."""
    for _ in range(rounds):
        forward, backward = ((forward - warp(backward, forward)) / 2, (backward - warp(forward, backward)) / 2)
    return forward, backward
