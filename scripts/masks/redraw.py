# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Masks of a source redrawn by a Segment Anything model, slice by slice, each structure from its own box.

A network names and locates structures; LiteMedSAM outlines the object in a box better than a compact network. A mask is
replaced only if both agree. A ring does not change, because the model fills its box with the cavity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from segment_anything.modeling import Sam
from torch import Tensor

from ..common.fingerprint import fingerprint, model_hash
from ..data.intensity import apply_window
from ..data.reader import Volume
from ..metrics.overlap import bounding_box
from ..sam.boxes import mask_boxes, unmasked
from ..sam.build import build_sam
from ..sam.slice_masks import upsample
from ..sam.suppress import pairwise_overlap
from ..sam.windows import draw_boxes, enlarged
from ..spatial.geometry import Geometry
from .grid import arranged, as_volume
from .source import Masks, MaskSource

SPACING_MM = 7.0  # least distance between redrawn slices; changes in between are interpolated
MIN_PIXELS = 20  # smaller masks on a slice are not redrawn
MARGIN = 24  # pixels around all structures within which outlines may move


class RedrawnSource(MaskSource):
    """A source whose masks are redrawn where a SAM agrees with them.

    Args:
        source: of the masks, for example a network of the bundle.
        structures: names that may be redrawn; None for all. The others do not change.
        agreement: least IoU of the new mask of a slice with the old one.
        share: how far outlines move from the old towards the new one, in (0, 1].
        sam: name of a model that takes boxes.
    """

    def __init__(
        self,
        source: MaskSource,
        structures: tuple[str, ...] | None = None,
        agreement: float = 0.4,
        share: float = 0.75,
        sam: str = "lite_medsam",
    ) -> None:
        super().__init__()
        self.source, self.agreement, self.share = source, agreement, share
        self.name, self.offered, self.any_name = f"{source.name} redrawn by {sam}", source.offered, source.any_name
        self.structures = structures
        self.spec = getattr(source, "spec", None)  # of a network of the bundle
        self.sam: Sam = build_sam(sam, precision="auto", everything=False).requires_grad_(False)

    def identity(self, volume: Volume) -> str:
        settings = self.structures, self.agreement, self.share, SPACING_MM
        return fingerprint(self.source.identity(volume), model_hash(self.sam), *settings)

    def segment(self, volume: Volume, names: tuple[str, ...], modality: str, probabilities: bool) -> Masks:
        """See :class:`MaskSource`. Probabilities are those of the source, and nothing is redrawn for them."""
        if probabilities:
            return self.source(volume, names, modality, probabilities)
        # All structures of a network, because neighbours compete for a voxel; other sources may offer hundreds.
        masks = self.source(volume, self.offered if self.spec else names, modality)
        table = np.zeros(1 + len(masks.names), np.uint8)
        table[[1 + masks.names.index(n) for n in names]] = np.arange(1, 1 + len(names))
        return Masks(table[self.redrawn(volume, masks)], names, masks.geometry)

    def redrawn(self, volume: Volume, masks: Masks) -> NDArray:
        """The label map of some masks with the chosen structures redrawn, (*shape) uint8."""
        wanted = masks.names if self.structures is None else self.structures
        chosen = [i for i, name in enumerate(masks.names, start=1) if name in wanted]
        image = apply_window(torch.from_numpy(volume.array.astype(np.float32)), self.source.modality or "auto")
        image, native = as_volume(image[:1], volume.geometry)
        axis = slice_axis(native, self.spec.layout if self.spec else "slices")
        pictures = image[0].movedim(axis, 0)
        stack = np.moveaxis(masks.labels.reshape(native.shape), axis, 0)
        plane = tuple(s for a, s in enumerate(native.spacing) if a != axis)
        step = max(1, round(SPACING_MM / native.spacing[axis]))
        found = np.flatnonzero(np.isin(stack, chosen).any(axis=(1, 2)))
        shifts: dict[int, dict[int, NDArray]] = {}
        for position in found[min(step // 2, max(len(found) - 1, 0)) :: step].tolist():
            labels = stack[position]
            values = [v for v in chosen if (labels == v).sum() >= MIN_PIXELS]
            drawn, agreement = redraw_slice(self.sam, pictures[position], labels, values)
            for value, mask, alike in zip(values, drawn, agreement):
                if alike >= self.agreement:
                    change = signed_distance(mask, plane) - signed_distance(labels == value, plane)
                    shifts.setdefault(value, {})[position] = self.share * change
        kept = [v for v, _ in enumerate(masks.names, start=1) if v not in chosen]
        new = np.moveaxis(moved_outlines(stack, shifts, plane, step, kept), 0, axis)
        return np.ascontiguousarray(new).reshape(masks.labels.shape)


def slice_axis(geometry: Geometry, layout: str) -> int:
    """The array axis across the slices of a 3-D grid, as a network with this layout sees them."""
    through = arranged(geometry, layout).affine[:3, 2]
    steps = geometry.affine[:3, :3]
    return int(np.abs(through @ steps / np.linalg.norm(steps, axis=0)).argmax())


@torch.no_grad()
def redraw_slice(sam: Sam, picture: Tensor, labels: NDArray, values: list[int]) -> tuple[NDArray, NDArray]:
    """Redraws structures of one slice, each from its box.

    Args:
        sam: the model.
        picture: (X, Y) in [0, 1].
        labels: (X, Y).
        values: K structures, each present.

    Returns:
        new masks (K, X, Y) bool and their IoU with the old ones (K,).
    """
    if not values:
        return np.zeros((0, *labels.shape), bool), np.zeros(0)
    device = next(sam.parameters()).device
    # The model was trained on pictures whose rows run from front to back, along the second in-plane axis.
    old = torch.from_numpy(np.stack([labels == v for v in values])).to(device).transpose(1, 2)
    empty = unmasked(sam, (picture.to(device) * 255).T.expand(3, -1, -1))
    boxes = mask_boxes(old) * empty.to_input.repeat(2)
    logits, _ = draw_boxes(sam, empty.embedding, enlarged(sam, boxes, empty.scaled))
    rows, columns = empty.logits.shape[1:]
    new = upsample(logits[:, :rows, :columns], empty.scaled, empty.stride, empty.size) > sam.mask_threshold
    agreement = pairwise_overlap(old, new, "iou").diagonal()
    return new.transpose(1, 2).cpu().numpy(), agreement.cpu().numpy()


def signed_distance(mask: NDArray, spacing: tuple[float, ...]) -> NDArray:
    """Distance to the outline of a mask (X, Y) in mm, positive inside, float32; far outside if it is empty."""
    if not mask.any():
        return np.full(mask.shape, -1e3, np.float32)
    return (distance_transform_edt(mask, spacing) - distance_transform_edt(~mask, spacing)).astype(np.float32)


def moved_outlines(
    stack: NDArray, shifts: dict[int, dict[int, NDArray]], plane: tuple[float, ...], step: int, kept: Sequence[int] = ()
) -> NDArray:
    """Moves the outlines of a label map.

    Args:
        stack: (N, X, Y) labels.
        shifts: change of the signed distance of a value on a slice, (X, Y) mm, by value and slice; slices between two
            of these that are at most ``step`` apart get a linear interpolation.
        plane: in-plane spacing, mm.
        step: slices.
        kept: values that neither lose nor gain a voxel.

    Returns:
        (N, X, Y). Where redrawn values meet, a voxel takes the one in which it is deepest; a voxel that its value loses
        takes the nearest of the others, or the background.
    """
    new = stack.copy()
    for position, labels in enumerate(stack):
        near = {v: between(known, position, step) for v, known in shifts.items() if (labels == v).any()}
        near = {v: change for v, change in near.items() if change is not None}
        if not near:
            continue
        cut = bounding_box(labels > 0, MARGIN)
        old = labels[cut]
        values = np.unique(np.append(old, 0))
        depth = np.stack([signed_distance(old == v, plane) for v in values])
        # Values that were not redrawn here keep a voxel unless a new outline takes it; the background gets the rest.
        moved = [d + near[v][cut] if v in near else np.minimum(d, 1e-3) for v, d in zip(values.tolist(), depth)]
        moved = np.stack([np.zeros(old.shape), *moved[1:]])
        lost = (moved.argmax(axis=0) == 0) & (old > 0)
        others = np.where((values[:, None, None] == old) | np.isin(values, kept)[:, None, None], -np.inf, depth)
        best = np.where(lost, others.argmax(axis=0), moved.argmax(axis=0))
        new[position][cut] = np.where(np.isin(old, kept), old, values[best])
    return new


def between(known: dict[int, NDArray], position: int, step: int) -> NDArray | None:
    """The shift of a slice from the nearest known ones on either side, within less than ``step``; None without any."""
    low = max((p for p in known if position - step < p <= position), default=None)
    high = min((p for p in known if position <= p < position + step), default=None)
    if low is None or high is None or low == high:
        return known.get(high if low is None else low)
    part = (position - low) / (high - low)
    return (1 - part) * known[low] + part * known[high]
