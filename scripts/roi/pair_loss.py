# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The overlap term of equation 2 of Huang et al. 2024, each pair of masks compared only where it can overlap."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..metrics.overlap import bounding_boxes
from ..spatial.warp import identity_grid, sample

BLOCK = 8  # voxels along an axis that are tried together when the voxels that reach a mask are looked for
THIN = 16  # along an axis of at most so many voxels each is tried alone: masks on thick slices are one voxel thick
GROUP_VOXELS = 500_000  # of the boxes of masks that are warped together, which bounds the memory
EPS = 1e-5  # added to both parts of the Dice quotient


class PairLoss:
    """Sum over pairs of mean squared error and Dice loss of the warped moving and the fixed mask.

    A region covers a small part of the grid, and a warped mask is zero in every voxel that is not mapped next to its
    box. Only the other voxels are interpolated, those of many masks in one list, with the derivative in closed form.
    The result is exact and costs a small share of warping all masks whole.

    Args:
        moving: (K, *shape) uint8 coverage 0..255.
        fixed: (K, *shape) uint8, mask k corresponds to moving mask k.
        weights: (K,) of the pairs; None weights them equally.
        valid: weight (*shape) of the voxels of the moving and of the fixed image, 0 where they are excluded; both masks
            are compared only where neither is.
    """

    def __init__(
        self, moving: Tensor, fixed: Tensor, weights: Tensor | None = None, valid: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.valid = valid
        weights = torch.ones(len(moving)) if weights is None else weights
        # An empty mask has the box of the first voxel.
        boxes = [b if b[0].stop else (slice(0, 1),) * len(b) for b in bounding_boxes(moving)]
        ends = torch.cumsum(torch.tensor([math.prod(s.stop - s.start for s in box) for box in boxes]), dim=0)
        parts = (ends // GROUP_VOXELS).tolist()
        members = [[k for k, part in enumerate(parts) if part == p] for p in sorted(set(parts))]
        self.groups = [
            MaskGroup([moving[k][boxes[k]] for k in m], [boxes[k] for k in m], fixed[m], weights[m].to(fixed.device))
            for m in members
        ]

    def __call__(self, ddf: Tensor, gradient: Tensor | None = None) -> float:
        """The loss at a field.

        Args:
            ddf: (1, n, *shape) voxels.
            gradient: same shape; the derivative of the loss by the field is added to it.
        """
        targets = identity_grid(ddf.shape[2:], ddf.device, ddf.dtype) + ddf.detach()
        look = None
        if self.valid is not None:
            look = self.valid[1].to(ddf) * sample(self.valid[0].to(ddf)[None, None], targets)[0, 0]
        total = ddf.new_zeros(())
        for group in self.groups:
            total += group.loss(targets[0], look, None if gradient is None else gradient[0])
        return float(total)


class MaskGroup:
    """Pairs of masks whose loss is computed at once.

    Args:
        crops: of each moving mask (K of them), uint8, to its box.
        boxes: of the crops, a slice for each axis.
        fixed: (K, *shape) uint8.
        weights: (K,) of the pairs.
    """

    def __init__(self, crops: list[Tensor], boxes: list[tuple[slice, ...]], fixed: Tensor, weights: Tensor) -> None:
        self.fixed, self.weights = fixed, weights
        device = fixed.device
        # A border of zeros lets a mask fade out over one voxel, as it does inside the whole grid. An axis of one voxel
        # is read at that voxel wherever the field points.
        self.active = [axis for axis, size in enumerate(fixed.shape[1:]) if size > 1]
        cells = [packed_cells(crop, self.active) for crop in crops]
        self.cells = torch.cat([cell.flatten() for cell in cells])
        sizes = torch.tensor([cell.numel() for cell in cells], device=device)
        self.starts = sizes.cumsum(dim=0) - sizes
        # By axis: the step from one cell of a mask to the next, the first voxel of its box and the one after the last.
        self.strides = torch.tensor([cell.stride() for cell in cells], device=device).T.contiguous()
        self.first = torch.tensor([[s.start for s in box] for box in boxes], device=device).T.contiguous()
        self.stop = torch.tensor([[s.stop for s in box] for box in boxes], device=device).T.contiguous()
        self.squares = torch.stack([(f / 255).square().sum() for f in fixed])

    def loss(self, targets: Tensor, look: Tensor | None, gradient: Tensor | None) -> Tensor:
        """The weighted loss of the group.

        Args:
            targets: (n, *shape) voxel coordinates of the moving image that every fixed voxel is mapped to.
            look: (*shape) weight of the voxels, or None.
            gradient: (n, *shape); the derivative by the targets is added.
        """
        owner, voxel, warped, slopes = self.read(targets, *self.reaching(targets))
        target = self.fixed.flatten().index_select(0, owner * targets[0].numel() + voxel).to(warped) / 255
        squares = self.squares.to(warped)
        if look is not None:
            seen = look.flatten().index_select(0, voxel)
            warped, target = warped * seen, target * seen
            squares = torch.stack([(f / 255 * look).square().sum() for f in self.fixed])
        both, own = (squares.new_zeros(len(squares)).index_add_(0, owner, warped * x) for x in (target, warped))
        count, sums = targets[0].numel(), own + squares + EPS
        loss = (own - 2 * both + squares) / count + 1 - (2 * both + EPS) / sums
        if gradient is not None:
            by_both = self.weights * (-2 / count - 2 / sums)
            by_own = self.weights * (1 / count + (2 * both + EPS) / sums.square())
            by_warped = by_both.index_select(0, owner) * target + 2 * by_own.index_select(0, owner) * warped
            by_warped = by_warped if look is None else by_warped * seen
            for axis, slope in zip(self.active, slopes):
                gradient[axis].view(-1).index_add_(0, voxel, by_warped * slope)
        return (self.weights * loss).sum()

    def reaching(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (P,) and flat voxels (P,) that are mapped to less than one voxel from the box of the mask.

        Blocks of voxels are tried first, by the lowest and the highest coordinate they are mapped to.
        """
        shape, n = targets.shape[1:], len(targets)
        pool = F.max_pool2d if n == 2 else F.max_pool3d
        block = [BLOCK if size > THIN else 1 for size in shape]
        low, high = -pool(-targets, block, ceil_mode=True), pool(targets, block, ceil_mode=True)
        near = torch.ones(len(self.weights), *low.shape[1:], dtype=torch.bool, device=targets.device)
        for axis in self.active:
            first, stop = (x[axis].view(-1, *[1] * n) for x in (self.first, self.stop))
            near &= (high[axis] > first - 1) & (low[axis] < stop)
        owner, *corners = near.nonzero().T
        within = [axis.flatten() for axis in identity_grid(block, targets.device, torch.long)[0]]
        strides = self.fixed[0].stride()
        begin = sum(corner * (step * stride) for corner, step, stride in zip(corners, block, strides))
        voxel, hit = begin[:, None] + sum(offset * stride for offset, stride in zip(within, strides)), None
        for corner, step, offset, size in zip(corners, block, within, shape):
            if size % step:  # the last block is not full
                inside = (corner * step)[:, None] + offset < size
                hit = inside if hit is None else hit & inside
        voxel = voxel.flatten() if hit is None else voxel.where(hit, 0).flatten()
        for axis in self.active:
            place = targets[axis].flatten().index_select(0, voxel).view(len(owner), len(within[0]))
            first, stop = (x[axis].index_select(0, owner)[:, None] for x in (self.first, self.stop))
            found = (place > first - 1) & (place < stop)
            hit = found if hit is None else hit & found
        chosen = hit.flatten().nonzero()[:, 0]
        return owner.index_select(0, chosen // len(within[0])), voxel.index_select(0, chosen)

    def read(self, targets: Tensor, owner: Tensor, voxel: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """The masks at the places that voxels are mapped to, without the pairs for which that is zero all around.

        Args:
            targets: see :meth:`loss`.
            owner: (P,) masks.
            voxel: (P,) flat voxels that are mapped to less than one voxel from the box of the mask.

        Returns:
            owner and voxel of the Q pairs that are left, the values (Q,) in [0, 1] of the masks and their derivatives
            along the active axes.
        """
        index, shares = self.starts.index_select(0, owner), []
        for axis in self.active:
            local = targets[axis].flatten().index_select(0, voxel) - (self.first[axis].index_select(0, owner) - 1)
            cell = local.floor()
            index, shares = index + cell.long() * self.strides[axis].index_select(0, owner), [*shares, local - cell]
        packed = self.cells.index_select(0, index)
        left = packed.nonzero()[:, 0]
        owner, voxel, packed, *shares = (x.index_select(0, left) for x in (owner, voxel, packed, *shares))
        corners = packed.view(torch.uint8).view(len(left), 2 ** len(shares)).T.to(targets) / 255
        value = corners.view(*[2] * len(shares), len(left))
        slopes: list[Tensor] = []
        for share in shares:
            slope = value[1] - value[0]
            slopes = [s[0] + share * (s[1] - s[0]) for s in slopes] + [slope]
            value = value[0] + share * slope
        return owner, voxel, value, slopes


def packed_cells(mask: Tensor, axes: list[int]) -> Tensor:
    """The values at the corners of every cell between neighbouring voxels, read at once as one integer.

    Args:
        mask: uint8; a border of zeros is added along ``axes``.
        axes: along which the cells have two corners, at most three.
    """
    padded = F.pad(mask, [int(axis in axes) for axis in reversed(range(mask.ndim)) for _ in range(2)])
    ranges = [((0, -1), (1, None)) if axis in axes else ((0, None),) for axis in range(mask.ndim)]
    corners = torch.stack([padded[tuple(slice(*r) for r in ends)] for ends in itertools.product(*ranges)], dim=-1)
    return corners.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[corners.shape[-1]])[..., 0]
