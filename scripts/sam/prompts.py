# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Prompted mode: one mask from points, a box or a rough mask on a slice that was encoded once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from ..common.errors import InputError
from .boxes import BoxEverything, redraw
from .decode import decode_tokens, draw_masks
from .everything import encode, stability_score
from .proposals import boxes_at, propose
from .slice_masks import SliceMasks, to_cells
from .windows import draw_boxes, enlarged

NEAR, MOST_NEAR = 0.3, 6  # proposals drawn beside given boxes: least IoU with one of these, and largest number
Encoder = Callable[[Sam, Tensor], tuple[Tensor, tuple[int, int]]]
ALIKE = 0.15  # predicted quality; chosen on clicks in 20 training hearts and 6 training abdomens
OUTSIDE = -6.0  # logit of a cell outside a given mask; inside it is the opposite


@dataclass(frozen=True, eq=False)
class Prompt:
    """The prompts for one object on a slice of H x W pixels.

    Attributes:
        points: (N, 2) x, y pixels, N may be 0.
        labels: (N,) 1 inside the object, 0 outside.
        box: (4,) pixels of two opposite corners x, y, x, y, or None.
        mask: (H, W) bool, a rough mask, or None.
    """

    points: Tensor
    labels: Tensor
    box: Tensor | None = None
    mask: Tensor | None = None

    @property
    def kinds(self) -> list[str]:
        """Which of "point", "box", "mask" it contains."""
        given = {"point": len(self.points) > 0, "box": self.box is not None, "mask": self.mask is not None}
        return [kind for kind, present in given.items() if present]


class EncodedSlices:
    """A stack of slices (N, 3, H, W) in 0..255; each is encoded when first needed, and its embedding kept.

    ``encoder`` computes the embeddings; :class:`scripts.sam.cache.CachedEncoder` also keeps them on disk.
    """

    def __init__(self, sam: Sam, stack: Tensor, encoder: Encoder = encode) -> None:
        self.sam, self.stack, self._encoder = sam, stack, encoder
        self.size = tuple(stack.shape[2:])
        self._known: dict[int, tuple[Tensor, tuple[int, int]]] = {}
        companion = getattr(sam, "companion", None)
        self._companion = None if companion is None else EncodedSlices(companion, stack, encoder)

    def __len__(self) -> int:
        return len(self.stack)

    @torch.no_grad()
    def embedding(self, position: int) -> tuple[Tensor, tuple[int, int]]:
        """Embedding (C, e, e) of a slice and the size it was scaled to."""
        if position not in self._known:
            embeddings, scaled = self._encoder(self.sam, self.stack[position : position + 1])
            self._known[position] = embeddings[0], scaled
        return self._known[position]

    def empty(self, position: int) -> SliceMasks:
        """The slice without masks."""
        embedding, scaled = self.embedding(position)
        return SliceMasks.empty(embedding, scaled, self.sam.image_encoder.img_size, self.size, self.sam.mask_threshold)

    def described(self, masks: SliceMasks, position: int) -> SliceMasks:
        """The masks with the embedding that describes them: the companion's if there is one."""
        if self._companion is None:
            return masks
        other = self._companion.empty(position)
        return replace(masks, embedding=other.embedding, inner=other.inner)

    def features(self, position: int) -> SliceMasks:
        """The slice without masks, with the embedding that describes it."""
        return (self._companion or self).empty(position)

    @torch.no_grad()
    def boxed(self, position: int, boxes: Tensor) -> SliceMasks:
        """Masks for boxes (K, 4) in pixels; a model with a proposal head also draws the proposals that overlap them."""
        none = torch.zeros(0, 2), torch.zeros(0)
        if not hasattr(self.sam, "proposals"):
            found = [self.masks(position, Prompt(*none, box)) for box in boxes]
            parts = [torch.cat([getattr(m, name) for m in found]) for name in ("logits", "predicted_iou", "stability")]
            return found[0].with_masks(*parts, torch.zeros(2))
        empty = self.empty(position)
        scale = empty.to_input.repeat(2)
        given = boxes.to(scale) * scale
        more = propose(self.sam.proposals, empty.embedding, empty.scaled).boxes
        more = more[(box_iou(more, given) > NEAR).any(dim=1)][:MOST_NEAR]
        prompts = enlarged(self.sam, torch.cat([given, more]), empty.scaled)
        return self.described(redraw(self.sam, empty, prompts, BoxEverything()), position)

    @torch.no_grad()
    def masks(self, position: int, prompt: Prompt) -> SliceMasks:
        """Masks for one prompt on a slice, best first: several for a single point, otherwise one.

        Raises:
            InputError: a kind of prompt that the model does not accept, or a box that is empty or outside.
        """
        accepted = getattr(self.sam, "prompts", ("point", "box", "mask"))
        for kind in prompt.kinds:
            if kind not in accepted:
                raise InputError(f"SAM {self.sam.name} takes no {kind} as a prompt, only a {' or a '.join(accepted)}.")
        box = None if prompt.box is None else checked_box(prompt.box, self.size)
        empty = self.empty(position)
        scale = empty.to_input
        points, labels = prompt.points.to(scale) * scale, prompt.labels.to(scale)
        box = None if box is None else box.to(scale) * scale.repeat(2)
        if "mask" in accepted:
            logits, iou = self._answers(empty, points, labels, box, prompt.mask)
        else:
            logits, iou = self._through_boxes(empty, points, labels, box)
        place = prompt.points[0] if len(prompt.points) else torch.zeros(2) if box is None else box.view(2, 2).mean(0)
        stability = stability_score(logits, self.sam.mask_threshold, 1.0)
        found = self.described(empty.with_masks(logits, iou, stability, place.float().cpu()), position)
        return found[iou.argsort(descending=True)]

    def _answers(self, empty: SliceMasks, points: Tensor, labels: Tensor, box: Tensor | None, mask: Tensor | None):
        """Logits and quality of the masks for prompts in pixels of the model's input."""
        sam, embedding, rough = self.sam, empty.embedding, None
        if mask is not None:
            low = 4 * embedding.shape[-1]
            rough = mask_logits(mask.to(embedding.device), empty)
            rough = F.pad(rough, (0, low - rough.shape[1], 0, low - rough.shape[0]), value=OUTSIDE)[None, None]
        sparse, dense = sam.prompt_encoder(
            points=(points[None], labels[None]) if len(points) else None,
            boxes=None if box is None else box[None],
            masks=rough,
        )
        single_point = len(points) == 1 and box is None and rough is None
        outputs = slice(1, 4) if single_point else slice(0, 1)
        tokens = decode_tokens(sam.mask_decoder, embedding[None] + dense, sam.prompt_encoder.get_dense_pe(), sparse)
        rows, columns = empty.logits.shape[1:]
        logits = draw_masks(sam.mask_decoder, tokens, embedding.shape[1:], outputs)[0][:, :rows, :columns]
        return logits, tokens.iou[0, outputs]

    def _through_boxes(self, empty: SliceMasks, points: Tensor, labels: Tensor, box: Tensor | None):
        """Logits and quality of the masks of a box-only model; for a click, those of the boxes proposed there."""
        sam, scores, boxes = self.sam, None, None if box is None else box[None]
        if boxes is None:
            if not hasattr(sam, "proposals"):
                raise InputError(f"SAM {sam.name} needs a box as a prompt; give a box, or choose --sam compact.")
            inside = points[labels > 0] if (labels > 0).any() else points
            boxes, scores = boxes_at(sam.proposals, empty.embedding, inside[0], empty.scaled)
        logits, iou = draw_boxes(sam, empty.embedding, enlarged(sam, boxes, empty.scaled))
        rows, columns = empty.logits.shape[1:]
        logits = logits[:, :rows, :columns]
        if scores is not None:
            # A mask scores by the share of points on the right side of its outline; the head's score breaks ties.
            x, y = (points / empty.stride).long().unbind(1)
            on = logits[:, y.clamp(0, rows - 1), x.clamp(0, columns - 1)] > sam.mask_threshold
            iou = iou.clamp(0, 1) * scores.clamp_min(1e-3) * (on == (labels > 0)).float().mean(dim=1).clamp_min(1e-3)
        return logits, iou

    @torch.no_grad()
    def given(self, position: int, mask: Tensor) -> SliceMasks:
        """A slice with one mask (H, W) that the user drew."""
        empty = self.empty(position)
        one = torch.ones(1, device=empty.embedding.device)
        logits = mask_logits(mask.to(one.device), empty)[None] + empty.threshold
        return self.described(empty.with_masks(logits, one, one, torch.zeros(2)), position)


def clicked_order(masks: Tensor, quality: Tensor) -> Tensor:
    """Order (K,) of the answers (K, H, W) of a model to one prompt, the intended one first.

    A click may mean a structure or a larger one around it, and the model rates both highly. Of the masks within
    ``ALIKE`` of the best quality, the smaller ones come first; the others follow by quality.
    """
    alike = quality >= quality.max() - ALIKE
    area = masks.flatten(1).float().mean(dim=1).to(quality)
    return torch.where(alike, 2 - area, quality - 2).argsort(descending=True)


def checked_box(box: Tensor, size: tuple[int, int]) -> Tensor:
    """The box (4,) with its corners in order, clipped to a slice of ``size`` (rows, columns).

    Raises :class:`InputError` for a box without area, or outside the slice.
    """
    corners = box.float().view(2, 2)
    low, high = corners.amin(dim=0), corners.amax(dim=0)
    limit = torch.tensor([size[1], size[0]], dtype=torch.float32)
    if bool((high - low <= 0).any()):
        raise InputError(f"The box {box.tolist()} has no area; give two opposite corners x, y, x, y.")
    if bool((high <= 0).any() | (low.cpu() >= limit).any()):
        raise InputError(f"The box {box.tolist()} lies outside the slice of {size[1]} x {size[0]} pixels.")
    return torch.cat([low.clamp_min(0), torch.minimum(high, limit.to(high))])


def mask_logits(mask: Tensor, masks: SliceMasks) -> Tensor:
    """A mask (H, W) as low-resolution logits (h, w), the form of the model's own masks."""
    return (to_cells(mask, masks.cells) * 2 - 1) * -OUTSIDE
