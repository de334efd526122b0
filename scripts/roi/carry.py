# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A region carried from one slice to another by the features of single cells of the embedding.

Every cell of the other slice takes the mask value of the most similar cells of the first. The background competes for
every cell, so the result has the outline of the region, not only its middle. This is the label propagation of Jabri et
al. 2020, "Space-time correspondence as a contrastive random walk", section 4.1.
"""

from __future__ import annotations

import torch
from skimage.measure import label
from torch import Tensor
from torch.nn import functional as F

from ..sam.slice_masks import SliceMasks
from .regions import cell_coverage

NEIGHBOURS = 8  # cells of the first slice that vote for one of the other
TEMPERATURE = 0.07  # of the cosine similarity
LEVELS = (0.35, 0.6)  # shares of the highest value, whose outlines become boxes


def cells(masks: SliceMasks) -> tuple[Tensor, Tensor]:
    """Which cells (e * e,) of the embedding show the slice, and their centres (e * e, 2) as x, y in pixels."""
    e = masks.embedding.shape[-1]
    place = torch.arange(e, device=masks.embedding.device) + 0.5
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    shown = (rows < masks.inner[0]) & (columns < masks.inner[1])
    scale = masks.size[1] / masks.inner[1], masks.size[0] / masks.inner[0]
    return shown.flatten(), torch.stack([columns * scale[0], rows * scale[1]], dim=-1).flatten(0, 1)


def carried(begin: SliceMasks, target: SliceMasks, sigma_px: float) -> Tensor:
    """The share of every cell of a slice that belongs to a region of another slice.

    Args:
        begin: a slice with exactly one mask.
        target: a slice of the same size, described by the same model.
        sigma_px: standard deviation of the prior that cells keep their place, pixels.

    Returns:
        (e, e) in [0, 1], 0 in cells of the padding.
    """
    shown, places = cells(begin)
    features = [F.normalize(m.embedding.float().flatten(1), dim=0)[:, shown] for m in (begin, target)]
    apart = torch.cdist(places[shown], places[shown])
    score = features[0].T @ features[1] / TEMPERATURE - (apart / sigma_px) ** 2 / 2
    best, index = score.topk(min(NEIGHBOURS, len(score)), dim=0)
    inside = cell_coverage(begin)[0].flatten()[shown]
    answer = torch.zeros_like(shown, dtype=torch.float32)
    answer[shown] = (best.softmax(dim=0) * inside[index]).sum(dim=0)
    return answer.view_as(target.embedding[0])


def soft_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of shares (..., e, e): the sum of the smaller values over that of the larger ones."""
    return torch.minimum(a, b).sum(dim=(-2, -1)) / torch.maximum(a, b).sum(dim=(-2, -1)).clamp_min(1e-9)


def boxes_of(shares: Tensor, masks: SliceMasks) -> Tensor:
    """Boxes (K, 4) in pixels of the slice around the main blob of shares (e, e), one for each of ``LEVELS``."""
    size = [round(s * shares.shape[-1] / inner) for s, inner in zip(masks.size, masks.inner)]
    fine = F.interpolate(shares[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    fine = fine[: masks.size[0], : masks.size[1]].cpu()
    boxes = []
    for level in LEVELS:
        blobs = torch.from_numpy(label((fine > level * fine.max()).numpy()))
        mass = torch.bincount(blobs.flatten(), fine.flatten())
        mass[0] = 0
        rows, columns = (blobs == int(mass.argmax())).nonzero().T
        boxes.append(torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float())
    return torch.stack(boxes).to(shares)
