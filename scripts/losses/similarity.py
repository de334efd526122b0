# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Local normalised cross-correlation without border bias, from separable running means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..spatial.warp import warp
from .pair import LossPair


def local_mean(x: Tensor, kernel: Sequence[int]) -> Tensor:
    """Mean of (B, C, H, W[, D]) over a box around each voxel; at the border, over the part inside the image.

    One pass per axis, so the cost grows with the sum of the (odd) ``kernel`` sizes instead of their product. torch's
    poolings along one axis are slow on a CPU, except for channels that lie side by side in memory: the axes behind
    serve as such channels, and the last axis is a product with a banded matrix (a quarter of ``avg_pool3d``'s time).
    """
    for axis, k in enumerate(kernel, start=2):
        if k <= 1:
            continue
        size = x.shape[axis]
        if axis < x.ndim - 1:
            rows = x.reshape(x.shape[:axis].numel(), size, 1, -1).permute(0, 3, 1, 2)
            rows = F.avg_pool2d(rows, (k, 1), stride=1, padding=(k // 2, 0), count_include_pad=False)
            x = rows.permute(0, 2, 3, 1).reshape(x.shape)
        else:
            place = torch.arange(size, device=x.device)
            near = ((place[:, None] - place).abs() <= k // 2).to(x.dtype)
            with torch.autocast(x.device.type, enabled=False):  # products would be computed in half precision
                x = x @ near / near.sum(dim=0)
    return x


def lncc(
    a: Tensor, b: Tensor, kernel: int | Sequence[int] = 9, mask: Tensor | None = None, eps: float = 1e-4
) -> Tensor:
    """Mean squared local correlation of two images, in [0, 1].

    Args:
        a: (B, C, H, W[, D]), intensities of the order of 1.
        b: same shape.
        kernel: odd window size, one for all axes or one per axis; shrinks on axes shorter than the window.
        mask: (B, 1, H, W[, D]) weights of the voxels; equal weights if None.
        eps: variance (intensity squared) below which a window counts as flat and scores 0.

    Returns:
        scalar; 1 if the images are equal up to a local linear change of intensity.

    Raises:
        ValueError: the shapes differ, or a kernel size is even.

    Reference:
        Avants et al. 2008; equation 8 of Xu et al., IPMI 2025.
    """
    if a.shape != b.shape:
        raise ValueError(f"LNCC needs images of one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")
    sizes = [kernel] * (a.ndim - 2) if isinstance(kernel, int) else list(kernel)
    if any(k % 2 == 0 for k in sizes):
        raise ValueError(f"LNCC needs odd window sizes, got {kernel}.")
    sizes = [min(k, n - 1 + n % 2) for k, n in zip(sizes, a.shape[2:])]
    # Always float32: in half precision the differences of variances cancel.
    a, b = a.float(), b.float()
    count = a.shape[1]
    mean_a, mean_b, aa, bb, ab = local_mean(torch.cat([a, b, a * a, b * b, a * b], dim=1), sizes).split(count, dim=1)
    covariance = ab - mean_a * mean_b
    variance_a, variance_b = (aa - mean_a**2).clamp_min(0), (bb - mean_b**2).clamp_min(0)
    score = covariance**2 / (variance_a * variance_b + eps * (variance_a + variance_b) + eps**2)
    if mask is None:
        return score.mean()
    return (score * mask).sum() / (mask.sum() * count).clamp_min(1e-6)


@dataclass
class LNCC:
    """1 - LNCC of the moved and the fixed image; a :class:`scripts.losses.pair.Term` (equation 8)."""

    weight: float = 1.0
    kernel: int | Sequence[int] = 9

    def __call__(self, ddf: Tensor, pair: LossPair) -> Tensor:
        return 1 - lncc(warp(pair.images[None, :1], ddf), pair.images[None, 1:2], self.kernel, pair.look(ddf))
