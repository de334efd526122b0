# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Everything mode for a SAM that takes boxes only: propose boxes, redraw each, keep certain and distinct masks.

The idea of a detector in place of the point grid is that of Zhang et al. 2023, "MobileSAMv2: faster segment anything to
everything". Boxes come from the proposal head and from the masks of a companion that needs no boxes. Masks of the
companion stay where the model redrew nothing, for example a ring, for whose box the model draws the core.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from ..common.errors import InputError
from .everything import EverythingMode, encode, stability_score
from .proposals import distinct, propose
from .slice_masks import SliceMasks, upsample
from .suppress import keep_distinct, pairwise_overlap
from .windows import draw_boxes, enlarged

PROTOTYPES = ("companion", "own", "both")


class BoxEverything:
    """Segments everything in a stack of slices with a box-only model that has ``proposals`` and a ``companion``.

    Args:
        boxes: largest number of boxes per slice.
        least_score: lowest score of a proposal.
        pred_iou_thresh: least predicted quality of a redrawn mask.
        stability_score_thresh: least stability, at an offset of 1 logit.
        agreement_thresh: least IoU of a mask's box with its prompt.
        mask_nms_thresh: mask IoU above which the worse of two masks is dropped; nested masks stay.
        companion_boxes: share of ``boxes`` that may come from masks of the companion.
        companion_masks: keeps masks of the companion that overlap no redrawn mask at IoU 0.5.
        rings: most masks added that are the difference of two nested ones, see :func:`rings`; 0 for none.
        prototypes: whose embedding describes the masks: "companion", "own" or "both" (joined).
        companion: everything mode of the companion.
        slices_per_batch: slices per step of the progress bar.
    """

    def __init__(
        self,
        boxes: int = 24,
        least_score: float = 0.1,
        pred_iou_thresh: float = 0.5,
        stability_score_thresh: float = 0.75,
        agreement_thresh: float = 0.5,
        mask_nms_thresh: float = 0.8,
        companion_boxes: float = 0.5,
        companion_masks: bool = True,
        rings: int = 0,
        prototypes: str = "companion",
        companion: EverythingMode | None = None,
        slices_per_batch: int = 4,
    ) -> None:
        if prototypes not in PROTOTYPES:
            raise InputError(f"prototypes must be one of {', '.join(PROTOTYPES)}, got {prototypes!r}.")
        if boxes < 1:
            raise InputError(f"boxes must be at least 1, got {boxes}.")
        self.boxes, self.least_score = boxes, least_score
        self.pred_iou_thresh, self.stability_score_thresh = pred_iou_thresh, stability_score_thresh
        self.agreement_thresh, self.mask_nms_thresh = agreement_thresh, mask_nms_thresh
        self.companion_boxes, self.companion_masks, self.prototypes = companion_boxes, companion_masks, prototypes
        self.rings, self.companion = rings, companion or EverythingMode()
        self.slices_per_batch = slices_per_batch

    @torch.no_grad()
    def __call__(self, sam: Sam, slices: Tensor) -> list[SliceMasks]:
        """Finds the masks of every slice (N, 3, H, W) in 0..255.

        Raises:
            InputError: the model has no proposal head.
        """
        if not hasattr(sam, "proposals"):
            raise InputError("This SAM has no proposals of boxes; use everything mode with points, or lite_medsam.")
        helped = self.companion(sam.companion, slices)
        found = []
        for one, other in zip(slices, helped):  # one by one: large batches are slower on a CPU
            (embedding,), scaled = encode(sam, one[None])
            found.append(self._slice(sam, embedding, scaled, other))
        return found

    def _slice(self, sam: Sam, embedding: Tensor, scaled: tuple[int, int], helped: SliceMasks) -> SliceMasks:
        empty = SliceMasks.empty(embedding, scaled, sam.image_encoder.img_size, helped.size, sam.mask_threshold)
        masks = redraw(sam, empty, self._prompts(sam, embedding, scaled, helped), self)
        if self.companion_masks and len(helped):
            theirs = upsample(helped.logits, helped.scaled, helped.stride, scaled)
            common = pairwise_overlap(theirs > helped.threshold, masks.logits > masks.threshold, "iou")
            alone = (common < 0.5).all(dim=1)
            more = theirs[alone], helped.predicted_iou[alone], helped.stability[alone], helped.points[alone]
            masks = with_more(masks, *more)
        if self.rings and len(masks):
            masks = with_more(masks, *rings(masks, self.rings))
        return replace(masks, logits=masks.logits.half(), **description(empty, helped, self.prototypes))

    def _prompts(self, sam: Sam, embedding: Tensor, scaled: tuple[int, int], helped: SliceMasks) -> Tensor:
        """Boxes (K, 4) to redraw, in pixels of the input."""
        found = propose(sam.proposals, embedding, scaled, self.boxes, self.least_score)
        boxes, scores = [found.boxes], [found.scores + 1]
        if self.companion_boxes and len(helped):
            scale = embedding.new_tensor([scaled[1] / helped.size[1], scaled[0] / helped.size[0]]).repeat(2)
            few = helped.predicted_iou.argsort(descending=True)[: math.ceil(self.companion_boxes * self.boxes)]
            outer = helped.boxes[few] + helped.boxes.new_tensor([0, 0, 1, 1])
            boxes.append(outer * scale)
            scores.append(helped.predicted_iou[few].clamp(0, 1))
        joined = distinct(torch.cat(boxes), torch.cat(scores), 2 * self.boxes, 0.0, overlap=0.8).boxes
        return enlarged(sam, joined, scaled)


def with_more(masks: SliceMasks, logits: Tensor, iou: Tensor, stability: Tensor, points: Tensor) -> SliceMasks:
    """The masks of a slice and others on the same grid."""
    more, own = (logits, iou, stability, points), ("logits", "predicted_iou", "stability", "points")
    return masks.with_masks(*(torch.cat([getattr(masks, name), new]) for name, new in zip(own, more)))


def rings(masks: SliceMasks, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What lies between nested masks, the best and distinct ones: the arguments of :func:`with_more`.

    No box means a ring such as the myocardium, because its box encloses the cavity too. A ring is the difference of two
    masks of which one encloses the other on all sides and fills between a fifth and 85 % of it.
    """
    on = masks.logits > masks.threshold
    area, boxes = on.flatten(1).sum(dim=1).float(), mask_boxes(on)
    share = area[None] / area[:, None].clamp_min(1)  # of the row's mask that the column's would fill
    room = torch.cat([boxes[None, :, :2] - boxes[:, None, :2], boxes[:, None, 2:] - boxes[None, :, 2:]], dim=2)
    nested = (pairwise_overlap(on, on, "smaller") > 0.9) & (share > 0.2) & (share < 0.85) & (room >= 1).all(dim=2)
    outer, core = nested.nonzero().T
    quality = (masks.predicted_iou[outer] * masks.predicted_iou[core]).clamp_min(0).sqrt()
    order = quality.argsort(descending=True)[: 8 * most]
    outer, core = outer[order], core[order]
    logits = torch.minimum(masks.logits[outer], 2 * masks.threshold - masks.logits[core])
    kept = keep_distinct(logits > masks.threshold, 0.8).nonzero()[:most, 0]
    stability = torch.minimum(masks.stability[outer], masks.stability[core])
    return logits[kept], quality[order][kept], stability[kept], masks.points[outer][kept]


def description(own: SliceMasks, other: SliceMasks, prototypes: str) -> dict:
    """The embedding that describes the masks of a slice, and the part of it that shows the slice.

    Args:
        own: the slice with the embedding of the model that draws.
        other: with that of its companion.
        prototypes: see :class:`BoxEverything`.
    """
    if prototypes == "own":
        return {"embedding": own.embedding.half(), "inner": own.inner}
    if prototypes == "companion":
        return {"embedding": other.embedding, "inner": other.inner}
    pooled = F.adaptive_avg_pool2d(own.embedding, other.embedding.shape[-1])
    both = torch.cat([F.normalize(pooled, dim=0), F.normalize(other.embedding, dim=0)])
    return {"embedding": both, "inner": other.inner}


def redraw(sam: Sam, empty: SliceMasks, prompts: Tensor, limits: BoxEverything) -> SliceMasks:
    """Certain and distinct masks for many boxes of one slice, best first.

    Args:
        sam: the model.
        empty: the slice, with the model's own embedding.
        prompts: (K, 4) boxes in pixels of the model's input.
        limits: thresholds.

    Returns:
        the masks; their ``predicted_iou`` is the geometric mean of predicted IoU, stability, and IoU with the prompt.
    """
    logits, quality = draw_boxes(sam, empty.embedding, prompts)
    on = logits > sam.mask_threshold
    agreement = box_iou(mask_boxes(on), prompts).diagonal()
    stability = stability_score(logits, sam.mask_threshold, 1.0)
    good = (agreement >= limits.agreement_thresh) & (stability >= limits.stability_score_thresh)
    good &= (quality >= limits.pred_iou_thresh) & on.flatten(1).any(dim=1)
    score = (quality.clamp(0, 1) * stability * agreement) ** (1 / 3)
    order = score.masked_fill(~good, -1).argsort(descending=True)[: int(good.sum())]
    order = order[keep_distinct(on[order], limits.mask_nms_thresh)]
    rows, columns = empty.logits.shape[1:]
    centres = (prompts[order, :2] + prompts[order, 2:]) / 2
    centres = centres * centres.new_tensor([empty.size[1] / empty.scaled[1], empty.size[0] / empty.scaled[0]])
    return empty.with_masks(logits[order, :rows, :columns], score[order], stability[order], centres)


def mask_boxes(masks: Tensor) -> Tensor:
    """Boxes (K, 4) x0, y0, x1, y1 of masks (K, H, W), outer borders of the pixels; zeros for an empty mask."""
    borders = []
    for axis in (1, 2):  # columns, then rows
        on = masks.any(dim=axis).float()
        first, last = on.argmax(dim=1), on.shape[1] - on.flip(1).argmax(dim=1)
        borders.append(torch.stack([first, last], dim=1) * on.any(dim=1)[:, None])
    return torch.stack(borders, dim=2).flatten(1).float() if len(masks) else masks.new_zeros(0, 4, dtype=torch.float)
