# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The masks of one slice, kept at the decoder's low resolution together with the embedding they came from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from segment_anything.utils.amg import batched_mask_to_box
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class SliceMasks:
    """The masks of one slice of H x W pixels.

    Attributes:
        logits: (K, h, w) low-resolution mask logits of the crop each mask was found in, padding removed.
        predicted_iou: (K,) quality predicted by the model.
        stability: (K,) IoU of the mask between a higher and a lower threshold.
        boxes: (K, 4) x0, y0, x1, y1 pixels.
        points: (K, 2) x, y pixels, the prompt of each mask.
        crops: (K, 4) x0, y0, x1, y1 pixels, the crop each mask was found in; the whole slice without crop layers.
        embedding: (C, e, e) image embedding of the whole slice.
        inner: (e_h, e_w) part of the embedding that shows the slice; the rest is padding.
        cells: rows and columns of the logits that show the crop; the last ones may do so in part.
        size: (H, W).
        threshold: logit above which a pixel belongs to a mask.
    """

    logits: Tensor
    predicted_iou: Tensor
    stability: Tensor
    boxes: Tensor
    points: Tensor
    crops: Tensor
    embedding: Tensor
    inner: tuple[float, float]
    cells: tuple[float, float]
    size: tuple[int, int]
    threshold: float = 0.0

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: Tensor | slice) -> SliceMasks:
        """The masks of a slice, an index tensor (in that order) or a boolean tensor."""
        parts = (self.logits, self.predicted_iou, self.stability, self.boxes, self.points, self.crops)
        return SliceMasks(*(p[index] for p in parts), self.embedding, self.inner, self.cells, self.size, self.threshold)

    def logits_at(self, size: tuple[int, int]) -> Tensor:
        """Logits of the whole slice at another size, (K, *size); far below the threshold outside a mask's crop."""
        whole = torch.tensor([0, 0, self.size[1], self.size[0]], device=self.crops.device)
        if bool((self.crops == whole).all()):
            return upsample(self.logits, self.cells, size)
        canvas = self.logits.new_full((len(self), *size), self.threshold - 20.0, dtype=torch.float32)
        scale = torch.tensor([size[1] / self.size[1], size[0] / self.size[0]] * 2, device=self.crops.device)
        for crop in self.crops.unique(dim=0):
            mine = (self.crops == crop).all(dim=1)
            x0, y0, x1, y1 = (crop * scale).round().long().tolist()
            canvas[mine, y0:y1, x0:x1] = upsample(self.logits[mine], self.cells, (y1 - y0, x1 - x0))
        return canvas

    def masks(self, size: tuple[int, int] | None = None) -> Tensor:
        """Binary masks (K, H, W), or at another size."""
        return self.logits_at(size or self.size) > self.threshold

    @classmethod
    def empty(
        cls, embedding: Tensor, inner: tuple[float, float], size: tuple[int, int], threshold: float
    ) -> SliceMasks:
        """A slice without masks."""
        none = embedding.new_zeros
        cells = 4 * inner[0], 4 * inner[1]
        parts = none(0, math.ceil(cells[0]), math.ceil(cells[1])), none(0), none(0), none(0, 4), none(0, 2), none(0, 4)
        return cls(*parts, embedding, inner, cells, size, threshold)

    def with_masks(self, logits: Tensor, iou: Tensor, stability: Tensor, points: Tensor) -> SliceMasks:
        """The same slice with masks (K, h, w) of the whole slice, their scores (K,) and the points (2,) or (K, 2)."""
        to_pixel = logits.new_tensor([self.size[1] / self.cells[1], self.size[0] / self.cells[0]] * 2)
        whole = logits.new_tensor([0, 0, self.size[1], self.size[0]]).expand(len(logits), 4)
        boxes = low_boxes(logits > self.threshold) * to_pixel
        points = points.to(logits.device).expand(len(logits), 2)
        return SliceMasks(
            logits, iou, stability, boxes, points, whole, self.embedding, self.inner, self.cells, self.size,
            self.threshold,
        )  # fmt: skip


def low_size(masks: SliceMasks) -> tuple[int, int]:
    """Whole rows and columns of the low-resolution grid that show the slice."""
    return round(4 * masks.inner[0]), round(4 * masks.inner[1])


def upsample(logits: Tensor, cells: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Bilinear map of the first ``cells`` rows and columns, which need not be whole, of (K, h, w) to (K, *size)."""
    scale = size[0] / cells[0], size[1] / cells[1]
    # The last row may be computed and cut off: what counts is that the scale is exact.
    larger = F.interpolate(logits[:, None].float(), scale_factor=scale, mode="bilinear", align_corners=False)[:, 0]
    return larger[:, : size[0], : size[1]]


def low_boxes(masks: Tensor) -> Tensor:
    """Boxes (K, 4) float, x0, y0, x1, y1 in cells with the far edges outside, of masks (K, h, w); zeros if empty."""
    boxes = batched_mask_to_box(masks).float()
    boxes[:, 2:] += masks.flatten(1).any(dim=1)[:, None]
    return boxes


def pixel_boxes(logits: Tensor, cells: tuple[float, float], threshold: float, size: tuple[int, int]) -> Tensor:
    """Boxes (K, 4) float, x0, y0, x1, y1, first and last pixel inside, of logits (K, h, w) as if upsampled to ``size``.

    Between two rows a bilinear map is never above both, so one axis at a time is upsampled and the other one maximised.
    """
    if not len(logits):
        return logits.new_zeros(0, 4)
    rows, columns = logits.shape[1:]
    ends = []
    lines = (
        upsample(logits, (rows, cells[1]), (rows, size[1])).amax(dim=1),
        upsample(logits, (cells[0], columns), (size[0], columns)).amax(dim=2),
    )
    for line in lines:
        on = (line > threshold).float()
        ends.append((on.argmax(dim=1), line.shape[1] - 1 - on.flip(1).argmax(dim=1), on.any(dim=1)))
    (x0, x1, some), (y0, y1, _) = ends
    return torch.stack([x0, y0, x1, y1], dim=1).float() * some[:, None]
