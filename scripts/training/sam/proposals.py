# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Training of the proposal head: cached embeddings of a frozen SAM, boxes of objects on the slices, and the loss."""

from __future__ import annotations

import time
import zlib
from collections.abc import Hashable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from monai.data import PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Transform
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Subset
from torchvision.ops import box_iou, generalized_box_iou_loss
from tqdm import tqdm

from ...sam.boxes import mask_boxes
from ...sam.everything import encode
from ...sam.proposals import SIZES, ProposalHead, distinct
from .slices import Slice

GRID = 32  # cells per side of the head
MOST_MASKS = 64
MIN_AREA, MAX_AREA = 0.0008, 0.6  # of the view
REGION = 0.15  # weight of a class-agnostic region beside that of a structure


def slice_items(
    slices: Mapping[str, list[Slice]], shares: Mapping[str, float], seed: int = 0, views: int = 1
) -> list[dict[str, Any]]:
    """The slices of all sources in a random order, of which any leading part contains the sources in their shares.

    Items have the source and number of a slice, a digest of its content and the seed of its view; the last two identify
    an item in a cache, whatever other slices exist. All second views follow all first views.
    """
    ranked = []
    for source in slices:
        order = np.random.default_rng([seed, len(source)]).permutation(len(slices[source]))
        ranked += [((rank + 0.5) / shares[source], source, int(number)) for rank, number in enumerate(order)]
    digests = {
        (source, k): zlib.crc32(one.layers.tobytes(), zlib.crc32(one.image.tobytes()))
        for source, found in slices.items()
        for k, one in enumerate(found)
    }
    return [
        {"digest": digests[source, number], "seed": [seed, view], "source": source, "number": number}
        for view in range(views)
        for _, source, number in sorted(ranked)
    ]


def item_hash(item: Mapping[str, Any]) -> bytes:
    """Name of an item in a cache."""
    return pickle_hashing([item["digest"], item["seed"]])


class EmbedSlice(Transform):
    """One random view of a slice, encoded by a frozen SAM; deterministic, so that a dataset can cache it.

    Half of the views are the whole slice, the others a square window of it; both are mirrored at random.

    Args:
        sam: the frozen model, on its device.
        slices: by source.

    Input: an item of :func:`slice_items`.

    Output: "embedding" (C, 64, 64) float16; "masks" (64, 32, 32) bool, the cells in each object; "boxes" (64, 4)
    float32, pixels of the input; "weights" (64,) 1 for structures, 0.15 for regions, 0 for padding.
    """

    def __init__(self, sam: Sam, slices: Mapping[str, list[Slice]]) -> None:
        self.sam, self.slices = sam, slices

    @torch.no_grad()
    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        rng = np.random.default_rng([data["digest"], *data["seed"]])
        item = self.slices[data["source"]][data["number"]]
        image, layers = random_view(item, rng)
        stack = torch.from_numpy(image).float().expand(1, 3, -1, -1)
        embedding, scaled = encode(self.sam, stack)
        masks, weights = object_masks(item, torch.from_numpy(layers), rng)
        side = self.sam.image_encoder.img_size
        seen = torch.zeros(len(masks), side, side)
        seen[:, : scaled[0], : scaled[1]] = F.interpolate(masks[None].float(), scaled, mode="area")[0]
        room = MOST_MASKS - len(masks)
        cells = F.adaptive_avg_pool2d(seen, GRID)
        cells = (cells > 0.5) | (cells == cells.flatten(1).amax(dim=1)[:, None, None]) & (cells > 0)
        return {
            "embedding": embedding[0].half().cpu(),
            "masks": F.pad(cells, (0, 0, 0, 0, 0, room)),
            "boxes": F.pad(mask_boxes(seen > 0.5), (0, 0, 0, room)),
            "weights": F.pad(weights, (0, room)),
        }


def random_view(item: Slice, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W) and layers (L, H, W) of the whole slice or of a window, mirrored at random."""
    image, layers = item.image, item.layers
    if rng.random() < 0.5:
        side = int(max(image.shape) * rng.uniform(0.35, 0.9))
        found = np.argwhere(layers[0] > 0)
        centre = found[rng.integers(len(found))] if len(found) else np.array(image.shape) // 2
        corner = [int(np.clip(c - side // 2, 0, max(s - side, 0))) for c, s in zip(centre, image.shape)]
        window = tuple(slice(c, c + side) for c in corner)
        image, layers = image[window], layers[(slice(None), *window)]
    for axis in range(2):
        if rng.random() < 0.5:
            image, layers = np.flip(image, axis), np.flip(layers, axis + 1)
    return np.ascontiguousarray(image), np.ascontiguousarray(layers)


def object_masks(item: Slice, layers: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Masks (K, H, W) of structures, groups of structures and regions of a view, K at most 64, and their weights."""
    low, high = (share * layers[0].numel() for share in (MIN_AREA, MAX_AREA))
    names = [v for v in layers[0].unique().tolist() if v > 0]
    found = [layers[0] == v for v in names]
    found += [torch.isin(layers[0], torch.tensor(group)) for group in item.groups if set(group) & set(names)]
    regions = [layer == v for layer in layers[1:] for v in layer.unique().tolist() if v > 0]
    regions = [regions[k] for k in rng.permutation(len(regions))]
    weights = [1.0] * len(found) + [REGION] * len(regions)
    good = [(m, w) for m, w in zip(found + regions, weights) if low <= int(m.sum()) <= high][:MOST_MASKS]
    if not good:
        return torch.zeros(0, *layers.shape[1:], dtype=torch.bool), torch.zeros(0)
    return torch.stack([m for m, _ in good]), torch.tensor([w for _, w in good])


def cached_part(dataset: PersistentDataset, budget_s: float, progress: bool = True) -> Subset:
    """The items of a dataset that are cached, or can be computed within a time budget in seconds, in order.

    At least one item is computed.
    """
    began, done = time.monotonic(), []
    for index in tqdm(range(len(dataset)), desc="embeddings", unit="slice", disable=not progress):
        key = dataset.hash_func(dataset.data[index]).decode("utf-8")
        late = time.monotonic() - began > budget_s and len(done) > 0
        if not (dataset.cache_dir / f"{key}.pt").exists():
            if late:
                continue
            dataset[index]
        done.append(index)
    return Subset(dataset, done)


class ProposalTraining(nn.Module):
    """Compares the head's boxes with the objects on the slices.

    Args:
        head: the model to train.
        amp: dtype of autocast, e.g. "bfloat16", or None.

    Forward:
        embedding (B, C, 64, 64), masks (B, M, 32, 32), boxes (B, M, 4), weights (B, M), see :class:`EmbedSlice`;
        returns the losses "score" and "box", and "recall", detached: the share of structures that one of the 48 best
        proposals finds at IoU 0.7.
    """

    def __init__(self, head: ProposalHead, amp: str | None = None) -> None:
        super().__init__()
        self.head = head
        self.amp = getattr(torch, amp) if amp else None

    def forward(self, embedding: Tensor, masks: Tensor, boxes: Tensor, weights: Tensor) -> dict[str, Tensor]:
        with torch.autocast(embedding.device.type, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None):
            logits, answers = self.head(embedding.float())
        chosen, weight = targets(masks, boxes, weights)
        wanted = boxes.gather(1, chosen.flatten(1)[..., None].expand(-1, -1, 4)).view_as(answers)
        here = weight > 0
        total = weight.sum().clamp_min(1)
        errors = generalized_box_iou_loss(answers[here], wanted[here])
        box = (errors * weight[here]).sum() / total
        # The score predicts how good the box is: quality focal loss of Li et al. 2020, equation 2.
        quality = torch.zeros_like(weight)
        quality[here] = (1 - errors.detach()).clamp(0, 1) * weight[here]
        error = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
        score = (error * (quality - logits.sigmoid()).abs() ** 2).sum() / total
        losses = {"score": score, "box": box}
        if not self.training:
            losses["recall"] = recall(logits.sigmoid(), answers, boxes, weights)
        return losses


def targets(masks: Tensor, boxes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The target object for every range of size and cell: structures before regions, small before large.

    Args:
        masks: (B, M, h, w) cells in each object.
        boxes: (B, M, 4).
        weights: (B, M).

    Returns:
        number of the object (B, 4, h, w), and its weight, 0 where there is none.
    """
    size = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).sqrt()
    urgency = weights * 1e3 - size  # at most 256 pixels
    chosen, weight = [], []
    for low, high in pairwise(SIZES):
        fits = (weights > 0) & (size >= low) & (size < high)
        rank = torch.where(fits[..., None, None] & masks, urgency[..., None, None], -1e4)
        best, index = rank.max(dim=1)
        own = weights[:, :, None, None].expand_as(masks).gather(1, index[:, None])[:, 0]
        chosen.append(index)
        weight.append(torch.where(best > -1e4, own, 0.0))
    return torch.stack(chosen, dim=1), torch.stack(weight, dim=1)


def recall(scores: Tensor, answers: Tensor, boxes: Tensor, weights: Tensor, most: int = 48) -> Tensor:
    """Share of the structures of a batch that one of the best proposals finds at IoU 0.7; NaN without structures."""
    met = []
    for s, a, b, w in zip(scores, answers, boxes, weights):
        structures = b[w == 1]
        if len(structures):
            found = distinct(a.flatten(0, 2), s.flatten(), most, 0.0)
            met.append(box_iou(structures, found.boxes).amax(dim=1) >= 0.7)
    return torch.cat(met).float().mean() if met else scores.new_tensor(float("nan"))
