# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The masks of one slice, kept at the decoder's low resolution together with the embedding they came from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from segment_anything.utils.amg import batched_mask_to_box
from torch import Tensor
from torch.nn import functional as F

PER_MASK = ("logits", "predicted_iou", "stability", "boxes", "points", "crops")
BOX_PIXELS = 1 << 21  # pixels of full-size masks held at once while their boxes are taken


@dataclass(frozen=True, eq=False)
class SliceMasks:
    """The masks of one slice of H x W pixels.

    Attributes:
        logits: (K, h, w) low-resolution mask logits of the crop each mask was found in, padding removed.
        predicted_iou: (K,) quality predicted by the model.
        stability: (K,) IoU of the mask between a higher and a lower threshold.
        boxes: (K, 4) x0, y0, x1, y1, the first and last pixels inside.
        points: (K, 2) x, y pixels, the prompt of each mask.
        crops: (K, 4) x0, y0, x1, y1 pixels, the crop each mask was found in; the whole slice without crop layers.
        embedding: (C, e, e) image embedding of the whole slice.
        inner: (e_h, e_w) part of the embedding that shows the slice; the rest is padding.
        scaled: (H', W') pixels of the model's input that show the crop; the rest is padding.
        stride: pixels of the model's input per cell of the logits.
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
    scaled: tuple[int, int]
    stride: float
    size: tuple[int, int]
    threshold: float = 0.0

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: Tensor | slice) -> SliceMasks:
        """The masks of a slice, an index tensor (in that order) or a boolean tensor."""
        return replace(self, **{name: getattr(self, name)[index] for name in PER_MASK})

    def logits_at(self, size: tuple[int, int]) -> Tensor:
        """Logits of the whole slice at another size, (K, *size); far below the threshold outside a mask's crop."""
        whole = torch.tensor([0, 0, self.size[1], self.size[0]], device=self.crops.device)
        if bool((self.crops == whole).all()):
            return upsample(self.logits, self.scaled, self.stride, size)
        canvas = self.logits.new_full((len(self), *size), self.threshold - 20.0, dtype=torch.float32)
        scale = torch.tensor([size[1] / self.size[1], size[0] / self.size[0]] * 2, device=self.crops.device)
        for crop in self.crops.unique(dim=0):
            mine = (self.crops == crop).all(dim=1)
            x0, y0, x1, y1 = (crop * scale).round().long().tolist()
            canvas[mine, y0:y1, x0:x1] = upsample(self.logits[mine], self.scaled, self.stride, (y1 - y0, x1 - x0))
        return canvas

    def masks(self, size: tuple[int, int] | None = None) -> Tensor:
        """Binary masks (K, H, W), or at another size."""
        return self.logits_at(size or self.size) > self.threshold

    @property
    def cells(self) -> tuple[float, float]:
        """Rows and columns of the logits that show the crop; the last ones may show it in part."""
        return self.scaled[0] / self.stride, self.scaled[1] / self.stride

    @property
    def to_input(self) -> Tensor:
        """Factors (2,) from x, y in pixels of the slice to pixels of the model's input."""
        return self.embedding.new_tensor([self.scaled[1] / self.size[1], self.scaled[0] / self.size[0]])

    @classmethod
    def empty(
        cls, embedding: Tensor, scaled: tuple[int, int], side: int, size: tuple[int, int], threshold: float
    ) -> SliceMasks:
        """A slice without masks, from its embedding (C, e, e), the part of the input it fills, and the input's side."""
        e = embedding.shape[-1]
        stride = side / (4 * e)
        none = embedding.new_zeros
        rows, columns = (math.ceil(s / stride) for s in scaled)
        parts = none(0, rows, columns), none(0), none(0), none(0, 4), none(0, 2), none(0, 4)
        inner = scaled[0] / side * e, scaled[1] / side * e
        return cls(*parts, embedding, inner, scaled, stride, size, threshold)

    def with_masks(self, logits: Tensor, iou: Tensor, stability: Tensor, points: Tensor) -> SliceMasks:
        """The same slice with masks (K, h, w) of the whole slice, their scores (K,) and the points (2,) or (K, 2)."""
        return replace(
            self,
            logits=logits,
            predicted_iou=iou,
            stability=stability,
            boxes=pixel_boxes(logits, self.scaled, self.stride, self.threshold, self.size),
            points=points.to(logits.device).expand(len(logits), 2),
            crops=logits.new_tensor([0, 0, self.size[1], self.size[0]]).expand(len(logits), 4),
        )


def low_size(masks: SliceMasks) -> tuple[int, int]:
    """Whole rows and columns of the low-resolution grid that show the slice."""
    return round(4 * masks.inner[0]), round(4 * masks.inner[1])


def upsample(logits: Tensor, scaled: tuple[int, int], stride: float, size: tuple[int, int]) -> Tensor:
    """Logits (K, h, w) as (K, *size), by the two bilinear maps of ``Sam.postprocess_masks``.

    The first leads to the pixels of the model's input that show the picture, ``scaled``, without its padding; the
    second to ``size``. A size below that of the cells, ``stride`` input pixels each, is reached directly.
    """
    cells = scaled[0] / stride, scaled[1] / stride
    through = scaled if size[0] > cells[0] and size[1] > cells[1] else size
    scale = through[0] / cells[0], through[1] / cells[1]
    # The last row may be computed only to be cut off: the scale must be exact.
    larger = F.interpolate(logits[:, None].float(), scale_factor=scale, mode="bilinear", align_corners=False)
    larger = larger[..., : through[0], : through[1]]
    if size != through:
        larger = F.interpolate(larger, size, mode="bilinear", align_corners=False)
    return larger[:, 0]


def to_cells(mask: Tensor, cells: tuple[float, float]) -> Tensor:
    """Share of each low-resolution cell that a mask (H, W) covers, (ceil(cells[0]), ceil(cells[1])) in [0, 1].

    The counterpart of :func:`upsample`: the slice ends within the last row and column where ``cells`` are not whole.
    """
    whole = math.ceil(cells[0]), math.ceil(cells[1])
    beyond = [round(s * (w / c - 1)) for s, w, c in zip(mask.shape, whole, cells)]
    padded = F.pad(mask[None, None].float(), (0, beyond[1], 0, beyond[0]))
    return F.interpolate(padded, whole, mode="area")[0, 0]


def pixel_boxes(
    logits: Tensor, scaled: tuple[int, int], stride: float, threshold: float, size: tuple[int, int]
) -> Tensor:
    """Boxes (K, 4) float, x0, y0, x1, y1, first and last pixel inside, of masks at full size; zeros if empty."""
    few = max(1, BOX_PIXELS // (size[0] * size[1]))
    boxes = [batched_mask_to_box(upsample(part, scaled, stride, size) > threshold) for part in logits.split(few)]
    return torch.cat(boxes).float() if len(logits) else logits.new_zeros(0, 4)
