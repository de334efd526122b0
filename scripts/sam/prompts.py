# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Prompted mode: one mask from points, a box or a rough mask on a slice that was encoded once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from .decode import decode_tokens, draw_masks
from .everything import encode, stability_score
from .slice_masks import SliceMasks, to_cells

OUTSIDE = -6.0  # logit of a cell certainly outside a given mask; inside it is the opposite


@dataclass(frozen=True, eq=False)
class Prompt:
    """What is known of one object on a slice of H x W pixels.

    Attributes:
        points: (N, 2) x, y pixels, N may be 0.
        labels: (N,) 1 inside the object, 0 outside.
        box: (4,) x0, y0, x1, y1 pixels, or None.
        mask: (H, W) bool, a rough mask, or None.
    """

    points: Tensor
    labels: Tensor
    box: Tensor | None = None
    mask: Tensor | None = None


class EncodedSlices:
    """A stack of slices with the embedding of each, made when first asked for and then kept.

    Args:
        sam: the model.
        stack: (N, 3, H, W) in 0..255.
    """

    def __init__(self, sam: Sam, stack: Tensor) -> None:
        self.sam, self.stack = sam, stack
        self.size = tuple(stack.shape[2:])
        self._known: dict[int, tuple[Tensor, tuple[int, int]]] = {}

    def __len__(self) -> int:
        return len(self.stack)

    @torch.no_grad()
    def embedding(self, position: int) -> tuple[Tensor, tuple[int, int]]:
        """Embedding (C, e, e) of a slice and the size it was scaled to."""
        if position not in self._known:
            embeddings, scaled = encode(self.sam, self.stack[position : position + 1])
            self._known[position] = embeddings[0], scaled
        return self._known[position]

    @torch.no_grad()
    def masks(self, position: int, prompt: Prompt | None) -> SliceMasks:
        """Masks for one prompt, best predicted first: three for a single point, one for anything more definite.

        Args:
            position: slice number.
            prompt: what to segment; None gives a slice without masks.
        """
        embedding, scaled = self.embedding(position)
        sam, side = self.sam, self.sam.image_encoder.img_size
        empty = SliceMasks.empty(embedding, scaled, side, self.size, sam.mask_threshold)
        if prompt is None:
            return empty
        scale = torch.tensor([scaled[1] / self.size[1], scaled[0] / self.size[0]], device=embedding.device)
        points = boxes = rough = None
        if len(prompt.points):
            labels = prompt.labels.to(embedding.device, torch.float32)
            points = prompt.points.to(embedding.device, torch.float32)[None] * scale, labels[None]
        if prompt.box is not None:
            boxes = prompt.box.to(embedding.device, torch.float32)[None] * scale.repeat(2)
        if prompt.mask is not None:
            low = 4 * embedding.shape[-1]
            rough = mask_logits(prompt.mask.to(embedding.device), empty)
            rough = F.pad(rough, (0, low - rough.shape[1], 0, low - rough.shape[0]), value=OUTSIDE)[None, None]
        sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=rough)
        single_point = len(prompt.points) == 1 and boxes is None and rough is None
        outputs = slice(1, 4) if single_point else slice(0, 1)
        tokens = decode_tokens(sam.mask_decoder, embedding[None] + dense, sam.prompt_encoder.get_dense_pe(), sparse)
        rows, columns = empty.logits.shape[1:]
        logits = draw_masks(sam.mask_decoder, tokens, embedding.shape[1:], outputs)[0][:, :rows, :columns]
        iou = tokens.iou[0, outputs]
        place = prompt.points[0] if len(prompt.points) else prompt.box.view(2, 2).mean(0) if boxes is not None else None
        place = torch.zeros(2) if place is None else place.float().cpu()
        found = empty.with_masks(logits, iou, stability_score(logits, sam.mask_threshold, 1.0), place)
        return found[iou.argsort(descending=True)]

    @torch.no_grad()
    def given(self, position: int, mask: Tensor) -> SliceMasks:
        """A slice with one mask (H, W) that nobody has to find, e.g. one drawn by the user."""
        empty = self.masks(position, None)
        one = torch.ones(1, device=empty.embedding.device)
        logits = mask_logits(mask.to(one.device), empty)[None] + empty.threshold
        return empty.with_masks(logits, one, one, torch.zeros(2))


def mask_logits(mask: Tensor, masks: SliceMasks) -> Tensor:
    """A mask (H, W) as low-resolution logits (h, w), the form of the model's own masks."""
    return (to_cells(mask, masks.cells) * 2 - 1) * -OUTSIDE
