# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The embeddings of a Segment Anything model as channels of the search, which matches similar places."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..spatial.warp import identity_grid, sample
from .regions import SliceRegions

CHANNELS = 8


def embedding_channels(moving: SliceRegions, fixed: SliceRegions, count: int = CHANNELS) -> tuple[Tensor, Tensor]:
    """The main components of both images' embeddings.

    The vectors of all cells are scaled to length 1 and projected onto their first principal components, which are those
    of both images together.

    Args:
        moving: regions of the moving image, which hold the embeddings of its slices.
        fixed: of the fixed image.
        count: number of components.

    Returns:
        moving and fixed channels (count, *shape) with a mean variance of 1. Axes are those of the working grid; in the
        plane of the slices there is one value for each cell of the embedding.
    """
    stacks = [_embeddings(regions) for regions in (moving, fixed)]
    cells = torch.cat([stack.movedim(1, -1).flatten(0, -2) for stack in stacks])
    mean = cells.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((cells - mean).T))  # in increasing order
    basis = vectors[:, -count:] / values[-count:].mean().clamp_min(1e-12).sqrt()
    found = []
    for regions, stack in zip((moving, fixed), stacks):
        maps = torch.einsum("nchw,ck->knhw", stack - mean.view(1, -1, 1, 1), basis)
        found.append(torch.stack([regions.plan.place(channel) for channel in maps]))
    return found[0], found[1]


def _embeddings(regions: SliceRegions) -> Tensor:
    """Embeddings (N, C, rows, columns) of the whole slices, each cell of length 1, without the padding."""
    stack = []
    for one in regions.slices[: len(regions.plan.indices)]:
        cells = [math.ceil(size) for size in one.inner]
        scale = torch.tensor([size / n for size, n in zip(one.inner, cells)]).view(1, 2, 1, 1)
        places = (identity_grid(cells, torch.device("cpu"), torch.float32) + 0.5) * scale - 0.5
        stack.append(F.normalize(sample(one.embedding[None].float().cpu(), places), dim=1))
    return torch.cat(stack)
