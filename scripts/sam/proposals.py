# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Boxes of objects from the embedding of a frozen SAM, for everything mode and clicks with a box-only model.

A small dense detector after FCOS (Tian et al. 2019, "FCOS: fully convolutional one-stage object detection"): every cell
of a grid predicts, for each of four ranges of size, a score and the box of the object that contains it. One pass gives
the proposals of a whole slice; the boxes of one cell answer a click.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from ..common.bundle import MODELS
from ..common.weights import load_weights, read_checkpoint
from .compact import ResidualBlock

WEIGHTS = MODELS / "proposals.pt"
SIDE = 256  # pixels of the model's input
SIZES = (5.0, 18.0, 40.0, 90.0, 240.0)  # limits of the ranges: square root of a box's area, pixels of the input


class Boxes(NamedTuple):
    """Proposals of one slice, best first.

    Attributes:
        boxes: (K, 4) x0, y0, x1, y1 in pixels of the model's input.
        scores: (K,) in [0, 1].
    """

    boxes: Tensor
    scores: Tensor


class ProposalHead(nn.Module):
    """The detector.

    Args:
        width: channels of the embedding.
        channels: of the layers of the head.

    Shape:
        - Input: (B, width, 64, 64).
        - Output: score logits (B, 4, 32, 32) and boxes (B, 4, 32, 32, 4), x0, y0, x1, y1 in pixels of the input.
    """

    def __init__(self, width: int = 256, channels: int = 128) -> None:
        super().__init__()
        self.entry = nn.Sequential(
            nn.Conv2d(width, channels, 1, bias=False), nn.GroupNorm(8, channels), nn.GELU(),
            ResidualBlock(channels, channels, 2),
        )  # fmt: skip
        self.fine = ResidualBlock(channels, channels)
        self.coarse = nn.Sequential(ResidualBlock(channels, channels, 2), ResidualBlock(channels, channels))
        self.coarsest = nn.Sequential(ResidualBlock(channels, channels, 2), ResidualBlock(channels, channels))
        self.joined = ResidualBlock(channels, channels)
        self.answer = nn.Conv2d(channels, 5 * (len(SIZES) - 1), 1)
        nn.init.zeros_(self.answer.weight)
        nn.init.constant_(self.answer.bias.data.view(-1, 5)[:, 0], -3.0)
        nn.init.zeros_(self.answer.bias.data.view(-1, 5)[:, 1:])

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        x = self.fine(self.entry(embedding))
        coarse = self.coarse(x)
        coarse = coarse + F.interpolate(self.coarsest(coarse), coarse.shape[2:], mode="bilinear", align_corners=False)
        x = self.joined(x + F.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False))
        answer = self.answer(x).float().unflatten(1, (-1, 5))
        scale = answer.new_tensor(SIZES[1:]).view(-1, 1, 1, 1) / 3
        reach = scale * answer[:, :, 1:].clamp(-5, 3).exp()
        y, x = (cell_centres(s, reach.device) for s in reach.shape[-2:])
        sides = [x - reach[:, :, 0], y[:, None] - reach[:, :, 1], x + reach[:, :, 2], y[:, None] + reach[:, :, 3]]
        return answer[:, :, 0], torch.stack(sides, dim=-1)


def cell_centres(cells: int, device: torch.device) -> Tensor:
    """Pixels of the input at the centres of the cells of the grid, (cells,)."""
    return (torch.arange(cells, device=device) + 0.5) * (SIDE / cells)


def proposal_head(path: str | Path | None = None) -> ProposalHead:
    """The trained detector in evaluation mode; its weights are in ``models/proposals.pt`` if ``path`` is None."""
    path = Path(path or WEIGHTS)
    head = ProposalHead()
    load_weights(head, read_checkpoint(path), path, "the proposal head")
    return head.eval()


@torch.no_grad()
def propose(
    head: ProposalHead, embedding: Tensor, scaled: tuple[int, int], most: int = 48, least: float = 0.05
) -> Boxes:
    """Boxes of the objects of one slice.

    Args:
        head: the detector.
        embedding: (C, 64, 64).
        scaled: rows and columns of the input that show the slice; boxes are clipped to them.
        most: largest number of boxes.
        least: lowest score.
    """
    scores, boxes = (t[0].flatten(0, 2) for t in head(embedding[None]))
    return distinct(clipped(boxes, scaled), scores.sigmoid(), most, least)


@torch.no_grad()
def boxes_at(head: ProposalHead, embedding: Tensor, point: Tensor, scaled: tuple[int, int]) -> Boxes:
    """Boxes that a click may mean, one for each range of size, best first; the point is x, y in pixels of the input."""
    scores, boxes = head(embedding[None])
    column, row = (point / SIDE * scores.shape[-1]).long().clamp(0, scores.shape[-1] - 1).tolist()
    return distinct(clipped(boxes[0, :, row, column], scaled), scores[0, :, row, column].sigmoid(), len(SIZES), 0.0)


def distinct(boxes: Tensor, scores: Tensor, most: int, least: float, overlap: float = 0.7) -> Boxes:
    """The best boxes after suppression of those whose IoU with a better one exceeds ``overlap``."""
    sides = boxes[:, 2:] - boxes[:, :2]
    good = (scores >= least) & (sides.amin(dim=1) >= 3)
    boxes, scores = boxes[good], scores[good]
    kept = nms(boxes, scores, overlap)[:most]
    return Boxes(boxes[kept], scores[kept])


def clipped(boxes: Tensor, scaled: tuple[int, int]) -> Tensor:
    """Boxes (K, 4) clipped at the borders of the picture."""
    rows, columns = scaled
    return torch.stack([boxes[:, i].clamp(0, (columns, rows)[i % 2]) for i in range(4)], dim=1)
