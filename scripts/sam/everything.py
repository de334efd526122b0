# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Everything mode: all masks of a stack of slices, at the decoder's low resolution until something needs more.

The stages and thresholds are those of ``segment_anything.SamAutomaticMaskGenerator``; the order of work differs.
Slices are encoded in batches and their embeddings kept; masks are drawn only for prompts that pass the quality
threshold; scores, boxes and suppression are computed on the low-resolution logits; only masks that survive are
upsampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from segment_anything.modeling import Sam
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes, is_box_near_crop_edge
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from ..common.errors import InputError
from .asked import Window, in_air, in_window
from .decode import decode_grouped, draw_masks
from .slice_masks import PER_MASK, SliceMasks, upsample
from .suppress import keep_distinct

GROUP_BYTES = 24 << 20  # image tokens of a group; blocks of memory beyond 32 MB are never kept for reuse
CACHE_BYTES = 5 << 18  # image tokens processed together
FIRST_READING = 256  # prompts whose first attention to the image is computed together


class EverythingMode:
    """Segments everything in a stack of slices with a grid of points.

    The defaults suit the compact SAM; those for the released models are in ``configs/sam/``.

    Args:
        points_per_side: side of the point grid.
        points_per_batch: prompts whose own image tokens are in memory at once; 0 chooses: 24 MB of them on a CPU, 256
            prompts on a GPU.
        pred_iou_thresh: least predicted quality, in [0, 1].
        stability_score_thresh: least stability, in [0, 1].
        stability_score_offset: shift of the threshold for the stability score, in logits.
        box_nms_thresh: box IoU above which the worse of two masks of a crop is dropped.
        mask_nms_thresh: mask IoU above which the worse of two masks is dropped; 1 leaves it to the boxes, as the
            package does.
        crop_n_layers: layers of crops, layer i having 2 ** i crops a side; 0 for the whole slice only.
        crop_nms_thresh: box IoU for duplicates between crops.
        crop_overlap_ratio: overlap of the crops of the first layer.
        crop_n_points_downscale_factor: the grid of layer i is this to the power i coarser.
        min_mask_region_area: islands and holes smaller than this many pixels are removed.
        skip_air: leaves out points in the air around a patient, whose masks are no regions.
        slices_per_batch: slices encoded at once.
    """

    def __init__(
        self,
        points_per_side: int = 16,
        points_per_batch: int = 0,
        pred_iou_thresh: float = 0.5,
        stability_score_thresh: float = 0.7,
        stability_score_offset: float = 0.3,
        box_nms_thresh: float = 0.7,
        mask_nms_thresh: float = 0.9,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        min_mask_region_area: int = 0,
        skip_air: bool = True,
        slices_per_batch: int = 8,
    ) -> None:
        for name, value in (("pred_iou_thresh", pred_iou_thresh), ("stability_score_thresh", stability_score_thresh)):
            if not 0 <= value <= 1:
                raise InputError(f"{name} must lie in [0, 1], got {value}.")
        if points_per_side < 1 or points_per_batch < 0:
            numbers = f"{points_per_side} and {points_per_batch}"
            raise InputError(f"points_per_side must be at least 1 and points_per_batch at least 0, got {numbers}.")
        self.points_per_side, self.points_per_batch = points_per_side, points_per_batch
        self.skip_air, self.slices_per_batch = skip_air, slices_per_batch
        self.pred_iou_thresh, self.stability_score_thresh = pred_iou_thresh, stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh, self.mask_nms_thresh = box_nms_thresh, mask_nms_thresh
        self.crop_n_layers, self.crop_nms_thresh = crop_n_layers, crop_nms_thresh
        self.crop_overlap_ratio, self.min_mask_region_area = crop_overlap_ratio, min_mask_region_area
        self.grids = build_all_layer_point_grids(points_per_side, crop_n_layers, crop_n_points_downscale_factor)

    @torch.no_grad()
    def __call__(self, sam: Sam, slices: Tensor, window: Window | None = None) -> list[SliceMasks]:
        """Finds the masks of every slice (N, 3, H, W) in 0..255; the model decides the device.

        Points in a ``window`` that will be looked at more closely are left out.

        Raises:
            InputError: the model takes no points.
        """
        if getattr(sam, "no_grid", None):
            raise InputError(sam.no_grid)
        size = tuple(slices.shape[2:])
        boxes, layers = generate_crop_boxes(size, self.crop_n_layers, self.crop_overlap_ratio)
        found: list[list[SliceMasks]] = [[] for _ in slices]
        for box, layer in zip(boxes, layers):
            x0, y0, x1, y1 = box
            for start in range(0, len(slices), self.slices_per_batch):
                batch = slices[start : start + self.slices_per_batch, :, y0:y1, x0:x1]
                embeddings, scaled = encode(sam, batch)
                for i, embedding in enumerate(embeddings):
                    points = self._points(batch[i], (x0, y0), layer, window).to(embedding.device)
                    found[start + i].append(self._crop(sam, embedding, scaled, box, points, size))
        return [self._merge(crops) for crops in found]

    @torch.no_grad()
    def encoded(self, sam: Sam, slice_: SliceMasks, picture: Tensor, window: Window | None = None) -> SliceMasks:
        """Finds the masks of a slice (3, H, W) whose embedding is known, without layers of crops."""
        height, width = picture.shape[1:]
        points = self._points(picture, (0, 0), 0, window).to(slice_.embedding.device)
        return self._crop(sam, slice_.embedding, slice_.scaled, [0, 0, width, height], points, (height, width))

    def _points(self, picture: Tensor, corner: tuple[int, int], layer: int, window: Window | None) -> Tensor:
        """Points (P, 2) of the grid of a crop (3, H, W), x and y in its pixels."""
        height, width = picture.shape[1:]
        points = torch.as_tensor(self.grids[layer], dtype=torch.float32) * torch.tensor([width, height])
        if self.skip_air:
            points = points[~in_air(points, picture)]
        if window is not None:
            points = points[~in_window(points, tuple(w - c for w, c in zip(window, corner * 2)))]
        return points

    def _crop(
        self, sam: Sam, embedding: Tensor, scaled: tuple[int, int], box: list[int], points: Tensor, size
    ) -> SliceMasks:
        """Masks of points of one crop (the whole slice when there are no crop layers)."""
        x0, y0, x1, y1 = box
        height, width = y1 - y0, x1 - x0
        crop = SliceMasks.empty(embedding, scaled, sam.image_encoder.img_size, (height, width), sam.mask_threshold)
        to_input = points.new_tensor([scaled[1] / width, scaled[0] / height])
        valid = tuple(crop.logits.shape[1:])
        group, few = fitting(embedding)
        group = self.points_per_batch or group
        pieces = [(crop.logits, crop.predicted_iou, crop.stability, crop.points)]
        for chunk in points.split(max(group, FIRST_READING)) if len(points) else ():
            pieces += self._decode(sam, embedding, chunk, chunk * to_input, valid, (group, few))
        logits, iou, stability, prompts = (torch.cat(p) for p in zip(*pieces))
        if self.min_mask_region_area and len(logits):
            cell = height * width / (crop.cells[0] * crop.cells[1])
            logits = without_small_regions(logits, crop.threshold, self.min_mask_region_area / cell)
        masks = crop.with_masks(logits, iou, stability, prompts)
        offset = points.new_tensor([x0, y0] * 2)
        masks = replace(
            masks,
            boxes=masks.boxes + offset,
            points=masks.points + offset[:2],
            crops=points.new_tensor(box).expand(len(logits), 4),
            size=size,
        )
        masks = masks[~is_box_near_crop_edge(masks.boxes - offset, box, [0, 0, size[1], size[0]])]
        masks = masks[nms(masks.boxes, masks.predicted_iou, self.box_nms_thresh)]
        if self.mask_nms_thresh < 1 and len(masks):  # box suppression left them best first
            masks = masks[keep_distinct(masks.logits > masks.threshold, self.mask_nms_thresh)]
        return masks

    def _decode(
        self,
        sam: Sam,
        embedding: Tensor,
        points: Tensor,
        inputs: Tensor,
        valid: tuple[int, int],
        at_once: tuple[int, int],
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Masks of points that pass both thresholds, by groups: logits, quality, stability, points."""
        labels = torch.ones(len(inputs), 1, device=inputs.device)
        sparse, dense = sam.prompt_encoder(points=(inputs[:, None], labels), boxes=None, masks=None)
        # Without a mask prompt the dense embedding is one vector everywhere: the sum is one image for all prompts.
        place = sam.prompt_encoder.get_dense_pe()
        image = embedding + dense[0]
        for prompts, tokens in decode_grouped(sam.mask_decoder, image, place, sparse, self.pred_iou_thresh, *at_once):
            drawn = draw_masks(sam.mask_decoder, tokens, embedding.shape[1:], slice(1, 4))
            good = tokens.iou[:, 1:] > self.pred_iou_thresh
            logits = drawn[good][:, : valid[0], : valid[1]]
            stability = stability_score(logits, sam.mask_threshold, self.stability_score_offset)
            stable = stability >= self.stability_score_thresh
            own = points[prompts][:, None].expand(-1, 3, -1)[good]
            yield logits[stable], tokens.iou[:, 1:][good][stable], stability[stable], own[stable]

    def _merge(self, crops: list[SliceMasks]) -> SliceMasks:
        """Joins the crops of one slice; of duplicates the one from the smaller crop stays."""
        if len(crops) == 1:
            return crops[0]
        side = max(c.logits.shape[1] for c in crops), max(c.logits.shape[2] for c in crops)
        parts = {name: torch.cat([getattr(c, name) for c in crops]) for name in PER_MASK if name != "logits"}
        logits = torch.cat([upsample(c.logits, c.scaled, c.stride, side) for c in crops])
        joined = replace(crops[0], logits=logits, scaled=side, stride=1.0, **parts)
        extent = joined.crops[:, 2:] - joined.crops[:, :2]
        return joined[nms(joined.boxes, 1 / extent.prod(dim=1).float(), self.crop_nms_thresh)]


def fitting(embedding: Tensor) -> tuple[int, int]:
    """Prompts whose tokens, and prompts whose image tokens, are best processed together; a GPU needs many."""
    if embedding.device.type != "cpu":
        return 256, 256
    size = embedding.numel() * embedding.element_size()
    together = max(torch.get_num_threads(), CACHE_BYTES // size)  # a product of matrices for every thread
    return max(1, GROUP_BYTES // size), together


def encode(sam: Sam, slices: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Embeddings (N, C, e, e) of slices (N, 3, H, W) in 0..255, and the size the slices were scaled to."""
    side = sam.image_encoder.img_size
    scaled = ResizeLongestSide.get_preprocess_shape(*slices.shape[2:], side)
    resized = F.interpolate(slices.to(sam.device).float(), scaled, mode="bilinear", align_corners=False, antialias=True)
    # Whole intensities, as in the package, so that suppression keeps the same one of two nearly equal masks.
    dtype = getattr(sam, "encoder_dtype", torch.float32)
    with torch.autocast(resized.device.type, dtype, enabled=dtype != torch.float32):
        return sam.image_encoder(sam.preprocess(resized.round())).float(), scaled


def stability_score(logits: Tensor, threshold: float, offset: float) -> Tensor:
    """IoU between the masks at ``threshold + offset`` and ``threshold - offset``, (K,) for logits (K, h, w)."""
    small = (logits > threshold + offset).flatten(1).sum(dim=1)
    large = (logits > threshold - offset).flatten(1).sum(dim=1)
    return small / large.clamp_min(1)


def without_small_regions(logits: Tensor, threshold: float, min_area: float) -> Tensor:
    """Fills holes and removes islands smaller than ``min_area`` cells, as the package does with OpenCV."""
    from skimage.morphology import remove_small_holes, remove_small_objects

    cleaned, on = logits.clone(), logits > threshold
    for k, mask in enumerate(on.cpu().numpy()):
        whole = remove_small_objects(remove_small_holes(mask, max_size=min_area - 1), max_size=min_area - 1)
        whole = torch.from_numpy(whole).to(logits.device)
        cleaned[k, whole & ~on[k]], cleaned[k, on[k] & ~whole] = threshold + 1, threshold - 1
    return cleaned
