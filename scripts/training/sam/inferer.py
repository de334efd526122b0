# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Training a Segment Anything model on pairs of views: prompts, correction rounds, and matching features.

Follows Kirillov et al. 2023 (appendix A: simulated prompts, three masks for an ambiguous point, focal + Dice, quality
head by mean squared error) with two changes for little data: a point is trained with all masks that contain it at once,
each by its own output, and the embedding is trained to match between views, because registration compares it.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from ...common.errors import InputError
from ...losses.sam import info_nce, mask_cost, match_outputs, soft_iou
from ...sam.boxes import mask_boxes
from ...sam.decode import decode_tokens, draw_masks

AMBIGUITY = 3  # masks that one point may mean
SINGLE, MULTI = slice(0, 1), slice(1, 4)


class SamTraining(nn.Module):
    """Wraps a SAM for training: a batch of views goes in, a dict of losses comes out.

    Args:
        sam: the model to train.
        prompts: prompts per view.
        round_probability: of a second round (box, more points, or correction of the previous mask).
        corrections: most clicks on errors in a correcting round, each with the mask before it; only the last one has a
            loss.
        amp: dtype of autocast, e.g. "bfloat16", or None.
        compiler: backend of ``torch.compile`` for the image encoder, e.g. "inductor", or None. The names of the
            weights are not affected.

    Raises:
        InputError: no corrections.
    """

    def __init__(
        self,
        sam: Sam,
        prompts: int = 8,
        round_probability: float = 0.6,
        corrections: int = 1,
        amp: str | None = None,
        compiler: str | None = None,
    ) -> None:
        super().__init__()
        if corrections < 1:
            raise InputError(f"corrections must be at least 1, got {corrections}.")
        self.sam, self.prompts, self.round_probability = sam, prompts, round_probability
        self.corrections = corrections
        self.amp = getattr(torch, amp) if amp else None
        if compiler:
            sam.image_encoder.compile(backend=compiler)

    def forward(
        self, image: Tensor, masks: Tensor, classes: Tensor, points: Tensor, visible: Tensor
    ) -> dict[str, Tensor]:
        """Computes the losses of a batch of B pairs of views.

        Args:
            image: (B, 2, 1, S, S) in 0..255.
            masks: (B, 2, M, m, m) share of each cell covered, in 0..255.
            classes: (B, M) anatomical class, 0 for none, -1 for no mask.
            points: (B, 2, N, 2) pixels (x, y).
            visible: (B, N) whether a point is in both views.

        Returns:
            scalar losses "mask", "refine", "quality", "prototype", "dense"; and "best_iou", detached, the mean over
            prompts of the IoU of the best of three masks with the intended mask.
        """
        with torch.autocast(image.device.type, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None):
            views = image.flatten(0, 1).expand(-1, 3, -1, -1)
            embedding = self.sam.image_encoder(self.sam.preprocess(views))
        masks = masks.flatten(0, 1).float() / 255
        valid = (classes >= 0).repeat_interleave(2, dim=0) & (masks.flatten(2).mean(dim=2) > 5e-4)
        losses = self._mask_losses(embedding, masks, valid, classes.repeat_interleave(2, dim=0))
        features = embedding.float()
        losses["prototype"] = prototype_contrast(features, masks, valid, classes)
        losses["dense"] = dense_contrast(features, points, visible, image.shape[-1])
        return losses

    def _mask_losses(self, embedding: Tensor, masks: Tensor, valid: Tensor, classes: Tensor) -> dict[str, Tensor]:
        views, size = len(masks), masks.shape[-1]
        # Anatomical structures are prompted three times as often as regions without a name.
        chance = valid * (1.0 + 2.0 * (classes > 0)) + 1e-9
        meant = torch.multinomial(chance, self.prompts, replacement=True)
        real = valid.gather(1, meant).flatten()
        target = masks.gather(1, meant[:, :, None, None].expand(-1, -1, size, size)).flatten(0, 1)
        point, cell = inside_points(target)
        coords = (point * (self.sam.image_encoder.img_size / size))[:, None]
        labels = torch.ones(len(coords), 1, device=coords.device)
        logits, quality = self._decode(embedding, (coords, labels), None, None, MULTI)

        flat = masks.flatten(2)
        containing = flat.gather(2, cell.view(views, 1, -1).expand(-1, masks.shape[1], -1)).transpose(1, 2) > 0.5
        containing = containing & valid[:, None]
        iou = soft_iou(logits.detach().flatten(2).view(views, -1, size * size), flat)
        iou = iou.view(views * self.prompts, 3, -1)
        true_quality = iou.masked_fill(~containing.flatten(0, 1)[:, None], 0.0).amax(dim=2)

        # The intended mask comes first, then random others that contain the point.
        order = containing.float() * (1 + torch.rand_like(chance)[:, None])
        order.scatter_(2, meant[:, :, None], 9.0)
        top, candidates = order.topk(AMBIGUITY, dim=2)
        targets = flat[torch.arange(views, device=flat.device)[:, None, None], candidates].flatten(0, 1)
        cost = mask_cost(logits.flatten(2), targets)
        losses = {"mask": mean_of(match_outputs(cost, top.flatten(0, 1) > 0.5), real)}
        own = iou.gather(2, meant.flatten()[:, None, None].expand(-1, 3, 1))[..., 0]
        losses["best_iou"] = mean_of(own.amax(dim=1), real)
        quality_error = ((quality - true_quality) ** 2).mean(dim=1)

        losses["refine"] = embedding.sum() * 0
        if not self.training or torch.rand(()) < self.round_probability:
            best = logits.detach().gather(1, own.argmax(dim=1)[:, None, None, None].expand(-1, 1, size, size))
            refined, refined_quality = self._second_round(embedding, coords, labels, target, best)
            refined_iou = soft_iou(refined.detach().flatten(2), target.flatten(1)[:, None])[:, :, 0]
            losses["refine"] = mean_of(mask_cost(refined.flatten(2), target.flatten(1)[:, None])[:, 0, 0], real)
            quality_error = quality_error + ((refined_quality - refined_iou) ** 2)[:, 0]
        losses["quality"] = mean_of(quality_error, real)
        return losses

    def _second_round(self, embedding: Tensor, coords: Tensor, labels: Tensor, target: Tensor, previous: Tensor):
        """One mask from a box, from three points, or from clicks on the errors of the previous masks."""
        scale = self.sam.image_encoder.img_size / target.shape[-1]
        kind = int(torch.randint(3, ())) if self.training else 0
        if kind == 0:
            return self._decode(embedding, None, jittered_boxes(target) * scale, None, SINGLE)
        if kind == 1:
            more = [inside_points(target)[0][:, None] * scale for _ in range(2)]
            prompts = torch.cat([coords, *more], dim=1), torch.ones(len(coords), 3, device=coords.device)
            return self._decode(embedding, prompts, None, None, SINGLE)
        for left in reversed(range(int(torch.randint(self.corrections, ())) + 1)):
            click, sign = self._correction(target, previous)
            coords, labels = torch.cat([coords, click[:, None] * scale], dim=1), torch.cat([labels, sign], dim=1)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not left):
                answer = self._decode(embedding, (coords, labels), None, previous, SINGLE)
            previous = answer[0].detach()
        return answer

    @staticmethod
    def _correction(target: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """A click (B, 2) in cells where the previous mask is wrong, and its label (B, 1), 1 inside the object."""
        error = (target > 0.5) != (previous[:, 0] > 0)
        # Where nothing is wrong, any point of the object confirms it.
        wrong = error.flatten(1).any(dim=1)[:, None, None]
        click, cell = inside_points(torch.where(wrong, error, target > 0.5).float())
        return click, (target.flatten(1).gather(1, cell[:, None]) > 0.5).float()

    def _decode(self, embedding: Tensor, points, boxes, previous, outputs: slice) -> tuple[Tensor, Tensor]:
        """Masks (B, O, m, m) and predicted quality (B, O), float32, of B = views x prompts prompts."""
        sam = self.sam
        with torch.autocast(embedding.device.type, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None):
            sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=previous)
            source = embedding.repeat_interleave(self.prompts, dim=0) + dense
            tokens = decode_tokens(sam.mask_decoder, source, sam.prompt_encoder.get_dense_pe(), sparse)
            logits = draw_masks(sam.mask_decoder, tokens, embedding.shape[2:], outputs)
        return logits.float(), tokens.iou[:, outputs].float()


class WeightedSum:
    """Loss function over a dict of losses; keeps the last values in ``terms`` for logging."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        self.terms: dict[str, float] = {}

    def __call__(self, losses: dict[str, Tensor], targets=None) -> Tensor:
        self.terms = {k: float(v.detach()) for k, v in losses.items()}
        return sum(w * losses[k] for k, w in self.weights.items())


def prepare_sam_batch(batch: dict[str, Tensor], device, non_blocking: bool = False, **kwargs):
    """The whole batch is the input; it contains the targets."""
    return {k: v.to(device, non_blocking=non_blocking) for k, v in batch.items()}, None


def mean_of(values: Tensor, real: Tensor) -> Tensor:
    """Mean over the real prompts; a view without masks has none."""
    return (values * real).sum() / real.sum().clamp_min(1)


def inside_points(masks: Tensor) -> tuple[Tensor, Tensor]:
    """A random point of each mask (B, m, m): coordinates (B, 2), x and y in cells, and its flat cell index (B,)."""
    size = masks.shape[-1]
    weight = (masks > 0.5).flatten(1).float()
    cell = torch.multinomial(weight + 1e-9, 1)[:, 0]
    place = torch.stack([cell % size, cell // size], dim=1).float()
    return place + torch.rand_like(place), cell


def jittered_boxes(masks: Tensor, jitter: float = 0.08) -> Tensor:
    """Boxes (B, 4) as x0, y0, x1, y1 in cells around masks (B, m, m), each side moved at random by a share of it."""
    boxes = mask_boxes(masks > 0.5)
    extent = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return (boxes + torch.randn_like(boxes) * jitter * extent).clamp(0, masks.shape[-1])


def prototype_contrast(features: Tensor, masks: Tensor, valid: Tensor, classes: Tensor) -> Tensor:
    """Contrast of mask prototypes: the same mask in the other view and the same class anywhere are positives.

    Features (2B, C, h, w) and masks (2B, M, m, m) in [0, 1] hold the views of a slice next to each other; ``valid`` is
    (2B, M) bool, ``classes`` (B, M).
    """
    pooled = F.adaptive_avg_pool2d(masks, features.shape[2:]).flatten(2)
    prototypes = torch.einsum("vmn,vcn->vmc", pooled, features.flatten(2)) / pooled.sum(dim=2, keepdim=True).clamp_min(
        1e-6
    )
    count = masks.shape[1]
    source = torch.arange(len(classes), device=masks.device)[:, None, None].expand(-1, 2, count)
    number = torch.arange(count, device=masks.device).expand(len(classes), 2, -1)
    kind = classes[:, None].expand(-1, 2, -1)
    keep = valid.flatten()
    source, number, kind = (t.flatten()[keep] for t in (source, number, kind))
    same = (source[:, None] == source) & (number[:, None] == number)
    same |= (kind[:, None] == kind) & (kind[:, None] > 0)
    # Masks that nearly coincide within a slice (a structure and its group) are neither positive nor negative.
    overlap = soft_iou(masks.flatten(2) - 0.5, masks.flatten(2))
    overlap = torch.maximum(overlap, overlap.view(-1, 2, count, count).flip(1).reshape_as(overlap))
    alike = torch.block_diag(*[o.repeat(2, 2) for o in overlap.view(-1, 2, count, count)[:, 0]])
    alike = alike[keep][:, keep] > 0.6
    return info_nce(prototypes.flatten(0, 1)[keep], same, ~alike | same)


def dense_contrast(features: Tensor, points: Tensor, visible: Tensor, img_size: int) -> Tensor:
    """Contrast of single places: a point and its twin in the other view against all other points of the batch.

    Features are (2B, C, h, w), points (B, 2, N, 2) pixels (x, y) of views of ``img_size``, ``visible`` (B, N) bool.
    """
    batch, _, count, _ = points.shape
    grid = (points / img_size * 2 - 1).flatten(0, 1)[:, :, None]
    sampled = F.grid_sample(features, grid, align_corners=False)[..., 0].transpose(1, 2).reshape(-1, features.shape[1])
    number = torch.arange(batch * count, device=points.device).view(batch, 1, count).expand(-1, 2, -1).flatten()
    # Points of one slice closer than two tokens in the first view show nearly the same place.
    first = points[:, 0]
    near = torch.cdist(first, first) < 2 * img_size / features.shape[-1]
    near = torch.block_diag(*[n.repeat(2, 2).float() for n in near]) > 0
    keep = visible[:, None].expand(-1, 2, -1).flatten()
    return info_nce(sampled[keep], (number[:, None] == number)[keep][:, keep], ~near[keep][:, keep])
