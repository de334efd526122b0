# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Everything mode for a SAM that takes boxes only: propose boxes, redraw each, keep certain and distinct masks.

The idea of a detector in place of the point grid is that of Zhang et al. 2023, "MobileSAMv2: faster segment anything to
everything". A companion, which also describes the masks, draws the same boxes: its masks stay where the model redrew
nothing, and they are the outlines of rings, for whose box the model draws the core.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from ..common.errors import InputError
from .asked import Window, mostly_within
from .everything import EverythingMode, encode, stability_score
from .proposals import propose
from .slice_masks import SliceMasks, upsample
from .suppress import keep_distinct, pairwise_overlap
from .windows import draw_boxes, enlarged

PROTOTYPES = ("companion", "own", "both")
SOFT = 0.3  # logits: offset of the stability of the companion, whose masks have soft edges
EVERYWHERE = 64.0  # context of a box that takes in the whole slice: the companion has few tokens


class BoxEverything:
    """Segments everything in a stack of slices with a box-only model that has ``proposals`` and a ``companion``.

    Args:
        boxes: largest number of boxes per slice.
        least_score: lowest score of a proposal.
        pred_iou_thresh: least predicted quality of a mask.
        stability_score_thresh: least stability.
        agreement_thresh: least IoU of a mask's box with its prompt.
        mask_nms_thresh: mask IoU above which the worse of two masks is dropped; nested masks stay.
        companion_masks: keeps masks of the companion that overlap no redrawn mask at IoU ``companion_overlap``.
        companion_overlap: see above.
        companion: everything mode of the companion, whose masks are kept likewise; None asks it with the boxes only.
        rings: most masks added that lie between two nested ones, see :func:`rings`; 0 for none.
        prototypes: whose embedding describes the masks: "companion", "own" or "both" (joined).
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
        companion_masks: bool = True,
        companion_overlap: float = 0.5,
        companion: EverythingMode | None = None,
        rings: int = 0,
        prototypes: str = "companion",
        slices_per_batch: int = 4,
    ) -> None:
        if prototypes not in PROTOTYPES:
            raise InputError(f"prototypes must be one of {', '.join(PROTOTYPES)}, got {prototypes!r}.")
        if boxes < 1:
            raise InputError(f"boxes must be at least 1, got {boxes}.")
        self.boxes, self.least_score = boxes, least_score
        self.pred_iou_thresh, self.stability_score_thresh = pred_iou_thresh, stability_score_thresh
        self.agreement_thresh, self.mask_nms_thresh = agreement_thresh, mask_nms_thresh
        self.companion_masks, self.companion_overlap, self.companion = companion_masks, companion_overlap, companion
        self.rings, self.prototypes = rings, prototypes
        self.slices_per_batch = slices_per_batch

    @torch.no_grad()
    def __call__(self, sam: Sam, slices: Tensor, window: Window | None = None) -> list[SliceMasks]:
        """Finds the masks of every slice (N, 3, H, W) in 0..255.

        Boxes that lie mostly in a ``window`` that will be looked at more closely are not drawn.

        Raises:
            InputError: the model has no proposal head.
        """
        if not hasattr(sam, "proposals"):
            raise InputError("This SAM has no proposals of boxes; use everything mode with points, or lite_medsam.")
        # One by one: large batches are slower on a CPU.
        return [self._slice(sam, one, window) for one in slices]

    def _slice(self, sam: Sam, picture: Tensor, window: Window | None) -> SliceMasks:
        own, other = (unmasked(model, picture) for model in (sam, sam.companion))
        boxes = propose(sam.proposals, own.embedding, own.scaled, self.boxes, self.least_score).boxes
        if window is not None:
            scale = own.scaled[1] / own.size[1], own.scaled[0] / own.size[0]
            boxes = boxes[~mostly_within(boxes, tuple(w * s for w, s in zip(window, scale * 2)))]
        masks = redraw(sam, own, enlarged(sam, boxes, own.scaled), self)
        drawn = redraw(sam.companion, other, boxes * rescaling(own, other), self, EVERYWHERE, SOFT)
        theirs = on_grid(drawn, own)
        if self.companion is not None:
            theirs = joined(theirs, on_grid(self.companion.encoded(sam.companion, other, picture, window), own))
        core = masks
        if self.companion_masks and len(theirs):
            common = pairwise_overlap(theirs.logits > theirs.threshold, masks.logits > masks.threshold, "iou")
            masks = joined(masks, theirs[(common < self.companion_overlap).all(dim=1)])
        if self.rings and len(core):
            masks = joined(masks, rings(joined(core, theirs), core, picture, self.rings))
        return replace(masks, logits=masks.logits.half(), **description(own, other, self.prototypes))


def unmasked(sam: Sam, picture: Tensor) -> SliceMasks:
    """A slice (3, H, W) in 0..255 with the embedding of a model and without masks."""
    (embedding,), scaled = encode(sam, picture[None])
    return SliceMasks.empty(embedding, scaled, sam.image_encoder.img_size, tuple(picture.shape[1:]), sam.mask_threshold)


def rescaling(source: SliceMasks, target: SliceMasks) -> Tensor:
    """Factors (4,) from boxes in pixels of the one model's input to pixels of the other's."""
    rows, columns = (t / s for s, t in zip(source.scaled, target.scaled))
    return source.embedding.new_tensor([columns, rows] * 2)


def on_grid(masks: SliceMasks, grid: SliceMasks) -> SliceMasks:
    """Masks of another model on the low-resolution grid of this one; the threshold becomes this one's."""
    logits = upsample(masks.logits, masks.scaled, masks.stride, tuple(grid.logits.shape[1:])) - masks.threshold
    return grid.with_masks(logits + grid.threshold, masks.predicted_iou, masks.stability, masks.points)


def joined(masks: SliceMasks, more: SliceMasks) -> SliceMasks:
    """The masks of a slice and others on the same grid."""
    names = ("logits", "predicted_iou", "stability", "points")
    return masks.with_masks(*(torch.cat([getattr(masks, name), getattr(more, name)]) for name in names))


def rings(outer: SliceMasks, core: SliceMasks, picture: Tensor, most: int) -> SliceMasks:
    """The best distinct regions between nested masks.

    A box cannot denote a ring such as the myocardium, because it encloses the cavity too. A ring is the difference of
    two masks, one of which encloses the other on all sides; the inner one fills between 15 and 85 % of the outer. Its
    quality grows with the certainty of both masks and the contrast between ring and core.

    Args:
        outer: masks that may enclose a ring.
        core: masks that may lie in it, on the same grid.
        picture: (3, H, W) of the slice.
        most: largest number of rings.
    """
    on, inner = (masks.logits > masks.threshold for masks in (outer, core))
    area, boxes, inner_boxes = on.flatten(1).sum(dim=1).float(), mask_boxes(on), mask_boxes(inner)
    share = inner.flatten(1).sum(dim=1)[None] / area[:, None].clamp_min(1)  # of the outer mask that the core would fill
    room = torch.cat([inner_boxes[None, :, :2] - boxes[:, None, :2], boxes[:, None, 2:] - inner_boxes[None, :, 2:]], 2)
    nested = (pairwise_overlap(on, inner, "smaller") > 0.9) & (share > 0.15) & (share < 0.85) & (room >= 1).all(dim=2)
    o, i = nested.nonzero().T
    grey = F.interpolate(picture.float().mean(dim=0)[None, None], tuple(on.shape[1:]), mode="area").flatten()
    quality = (outer.predicted_iou[o] * core.predicted_iou[i]).clamp_min(0).sqrt()
    quality = quality * contrast(on[o] & ~inner[i], inner[i], grey)
    order = quality.argsort(descending=True)[: 8 * most]
    o, i = o[order], i[order]
    logits = torch.minimum(outer.logits[o], 2 * core.threshold - core.logits[i])
    kept = keep_distinct(logits > core.threshold, 0.8).nonzero()[:most, 0]
    stability = torch.minimum(outer.stability[o], core.stability[i])
    return core.with_masks(logits[kept], quality[order][kept], stability[kept], outer.points[o][kept])


def contrast(a: Tensor, b: Tensor, grey: Tensor) -> Tensor:
    """How far the intensities of regions (K, h, w) differ, (K,) in [0, 1]: difference of means over itself and both sd.

    ``grey`` are the intensities (h * w,).
    """
    statistics = []
    for on in (a.flatten(1).float(), b.flatten(1).float()):
        count = on.sum(dim=1).clamp_min(1)
        mean = on @ grey / count
        statistics.append((mean, (on @ grey.square() / count - mean.square()).clamp_min(0).sqrt()))
    (mean_a, sd_a), (mean_b, sd_b) = statistics
    apart = (mean_a - mean_b).abs()
    return apart / (apart + sd_a + sd_b).clamp_min(1e-3)


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


def redraw(
    sam: Sam, empty: SliceMasks, prompts: Tensor, limits: BoxEverything, context: float = 0.25, offset: float = 1.0
) -> SliceMasks:
    """Certain and distinct masks for many boxes of one slice, best first.

    Args:
        sam: the model.
        empty: the slice, with the model's own embedding.
        prompts: (K, 4) boxes in pixels of the model's input.
        limits: thresholds.
        context: see :func:`scripts.sam.windows.draw_boxes`.
        offset: of the stability, in logits.

    Returns:
        the masks; their ``predicted_iou`` is the geometric mean of predicted IoU, stability, and IoU with the prompt.
    """
    logits, quality = draw_boxes(sam, empty.embedding, prompts, context)
    on = logits > sam.mask_threshold
    cell = sam.image_encoder.img_size / on.shape[-1]
    agreement = box_iou(mask_boxes(on) * cell, prompts).diagonal()
    stability = stability_score(logits, sam.mask_threshold, offset)
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
