# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The overlap term of equation 2 of Huang et al. 2024, each pair of masks warped only where it can overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..metrics.overlap import bounding_box
from ..spatial.warp import identity_grid, sample


class PairLoss:
    """Sum over pairs of mean squared error and Dice loss of the warped moving and the fixed mask.

    A region covers a small part of the grid, and a warped mask is zero wherever the field does not point next to its
    box. One pair after the other is therefore warped in the window from where its box can be reached; outside it the
    squared error is that of the fixed mask alone. The result is exact, costs a small share of warping all masks whole,
    and the floats of one window are all the memory it takes, however many pairs there are.

    Args:
        moving: (K, *shape) uint8 coverage 0..255.
        fixed: (K, *shape) uint8, mask k corresponds to moving mask k.
        weights: (K,) of the pairs; None weights them equally.
        valid: weight (*shape) of the voxels of the moving and of the fixed image, 0 where they are excluded; both masks
            are compared only where neither is. Every mask is then warped whole.
    """

    def __init__(
        self, moving: Tensor, fixed: Tensor, weights: Tensor | None = None, valid: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.fixed, self.valid = fixed, valid
        self.weights = [1.0] * len(moving) if weights is None else weights.tolist()
        # An empty mask has the box of the first voxel.
        boxes = [bounding_box(m > 0, 0) if m.any() else (slice(0, 1),) * m.ndim for m in moving]
        self.crops = [mask[box] for mask, box in zip(moving, boxes)]
        self.boxes = [[(s.start, s.stop) for s in box] for box in boxes]
        self.squares = [(f / 255).square().sum() for f in fixed]

    def __call__(self, ddf: Tensor, gradient: Tensor | None = None) -> float:
        """The loss at a field.

        Args:
            ddf: (1, n, *shape) voxels.
            gradient: same shape; the derivative of the loss by the field is added to it.
        """
        shape = tuple(ddf.shape[2:])
        reach = torch.stack([ddf[0].flatten(1).amin(dim=1), ddf[0].flatten(1).amax(dim=1)], dim=1).tolist()
        places = identity_grid(shape, ddf.device, ddf.dtype)
        # A border of zeros lets a mask fade out over one voxel, as it does inside the whole grid; an axis of one voxel
        # is read at that voxel wherever the field points.
        margin = [int(size > 1) for size in shape]
        look = None
        if self.valid is not None:
            look = self.valid[1].to(ddf) * sample(self.valid[0].to(ddf)[None, None], ddf.detach() + places)[0, 0]
        total = ddf.new_zeros(())
        for box, crop, fixed, square, weight in zip(self.boxes, self.crops, self.fixed, self.squares, self.weights):
            window = _window(box, reach, shape) if look is None else tuple(slice(0, s) for s in shape)
            leaf = ddf[(..., *window)].detach().requires_grad_(gradient is not None)
            mask = F.pad(crop.to(ddf)[None, None] / 255, [m for m in reversed(margin) for _ in range(2)])
            corner = ddf.new_tensor([a - m for (a, _), m in zip(box, margin)]).view(1, -1, *[1] * len(box))
            warped = sample(mask, leaf + (places[(..., *window)] - corner), padding="zeros")[0, 0]
            target = fixed[window].to(ddf) / 255
            if look is not None:
                warped, target = warped * look, target * look
                square = target.square().sum()
            outside = square - target.square().sum()
            error = ((warped - target).square().sum() + outside) / math.prod(shape)
            both = 2 * (warped * target).sum()
            loss = error + 1 - (both + 1e-5) / (warped.square().sum() + square + 1e-5)
            loss = loss if weight == 1 else weight * loss
            total += loss.detach()
            if gradient is not None:
                gradient[(..., *window)] += torch.autograd.grad(loss, leaf)[0]
        return float(total)


def _window(box: Sequence[tuple[int, int]], reach: Sequence[Sequence[float]], shape: Sequence[int]) -> tuple:
    """At least the voxels from which displacements within ``reach`` lead to less than one voxel from the box."""
    window = []
    for (a, b), (least, most), size in zip(box, reach, shape):
        first = min(max(math.floor(a - 1 - most), 0), size - 1)
        window.append(slice(first, min(max(math.ceil(b - least) + 1, first + 1), size)))
    return tuple(window)
