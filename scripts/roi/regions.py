# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Regions of interest of one image: filtered slice masks with prototypes, linked through slices into 3-D regions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ..correspondence.regions import Regions
from ..correspondence.slicing import SlicePlan
from ..sam.slice_masks import SliceMasks, low_size
from ..sam.suppress import pairwise_overlap
from .region_filter import RegionFilter


@dataclass(frozen=True, eq=False)
class SliceRegions(Regions):
    """K regions of one image, each a run of masks on planned slices.

    Areas are in pixels of the slices; scores are the mean predicted quality of a region's masks.

    Attributes:
        members: for each region the (position in ``slices``, mask number) pairs of its slice masks.
        slices: the masks of every planned slice, at low resolution; after a second look followed by those of the window
            in every slice.
        looks: (K,) the look in which each region was found, 0 or 1. Prototypes of different looks are not comparable.
    """

    members: list[list[tuple[int, int]]]
    slices: list[SliceMasks]
    looks: Tensor

    def masks(self, index: list[int]) -> Tensor:
        """Coverage (len(index), *shape) uint8, 0..255, of some regions on the working grid."""
        size, count = self.slices[0].size, len(self.plan.indices)
        shape = self.plan.place(torch.zeros(count, *size)).shape
        masks = torch.zeros(len(index), *shape, dtype=torch.uint8)
        # Where every slice is shown, none is interpolated, so bytes will do.
        kind = torch.uint8 if len(self.plan.indices) == self.plan.count else torch.float32
        for mask, region in zip(masks, index):
            shown = {}
            for position, number in self.members[region]:
                one = self.slices[position][number : number + 1]
                covered = edge_coverage(one.logits_at(size)[0], one.threshold).cpu() * 255
                shown[position % count] = covered.round() if kind is torch.uint8 else covered
            first = min(shown)
            run = torch.zeros(max(shown) - first + 1, *size, dtype=kind)
            for position, covered in shown.items():
                run[position - first] = covered
            planes, values = self.plan.place_run(run, first)
            volume = mask[None] if self.plan.axis is None else mask.movedim(self.plan.axis, 0)
            volume[planes] = values.round().to(torch.uint8)
        return masks

    def without_masks(self) -> SliceRegions:
        """The same regions without the masks and embeddings of the slices, which fill 1 GB for a whole CT."""
        return replace(self, members=[], slices=[])


def edge_coverage(logits: Tensor, threshold: float) -> Tensor:
    """Masks with a soft edge of one pixel, 0.5 on the contour; a hard threshold would lose the sub-pixel position."""
    gradient = torch.hypot(*torch.gradient(logits, dim=(-2, -1))).clamp_min(1e-3)
    return ((logits - threshold) / gradient + 0.5).clamp(0, 1)


def cell_coverage(masks: SliceMasks) -> Tensor:
    """Share of each cell of the embedding that each mask covers, (K, e, e) in [0, 1]."""
    e = masks.embedding.shape[-1]
    canvas = torch.zeros(len(masks), 4 * e, 4 * e, device=masks.embedding.device)
    size = low_size(masks)
    canvas[:, : size[0], : size[1]] = masks.masks(size).float()
    return F.avg_pool2d(canvas[:, None], 4)[:, 0]


def slice_prototypes(masks: SliceMasks) -> tuple[Tensor, Tensor]:
    """Prototypes (K, C) and their weights (K,), the mask areas in embedding cells.

    The mask is averaged onto the embedding, so a region smaller than a cell has a prototype too. An empty mask has
    weight 0 and a prototype of zeros, which the caller must drop.

    Reference:
        the prototype formula of section 4.2 of Huang et al. 2024.
    """
    weights = cell_coverage(masks).flatten(1)
    total = weights.sum(dim=1)
    prototypes = weights @ masks.embedding.flatten(1).T.float() / total.clamp_min(1e-9)[:, None]
    return prototypes, total


def find_regions(
    slices: list[SliceMasks],
    plan: SlicePlan,
    keep: RegionFilter | None,
    link: bool = True,
    link_overlap: float = 0.3,
    link_similarity: float = 0.6,
    min_slices: int = 1,
    corner: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
    pixel_mm2: float | None = None,
) -> SliceRegions:
    """Filters the masks of every slice, computes prototypes, and links them from slice to slice.

    Args:
        slices: masks of every planned slice.
        plan: where the slices are.
        keep: the filter; None keeps everything.
        link: joins masks of neighbouring slices into 3-D regions; otherwise each slice mask is a separate region.
        link_overlap: least IoU of two masks of neighbouring slices.
        link_similarity: least cosine similarity of their prototypes.
        min_slices: regions on fewer slices are dropped, unless the image has fewer.
        corner: x, y of the first pixel of the slices, if they are windows of larger ones.
        size: of those larger ones (rows, columns); None if the slices are whole.
        pixel_mm2: area of a pixel of the slices; None if it is unknown.
    """
    slices = slices if keep is None else [keep(masks, pixel_mm2) for masks in slices]
    described = [slice_prototypes(masks) for masks in slices]
    if link:
        runs = link_slices(slices, [vectors for vectors, _ in described], link_overlap, link_similarity)
        runs = [run for run in runs if len(run) >= min(min_slices, len(slices))]
    else:
        runs = [[(position, number)] for position, masks in enumerate(slices) for number in range(len(masks))]
    moments = [slice_moments(masks) for masks in slices]
    if size is not None:
        slices = [within(masks, corner, size) for masks in slices]
    ndim = 2 if plan.axis is None else 3
    if not runs:
        empty = torch.zeros(0)
        return SliceRegions(
            torch.zeros(0, len(slices[0].embedding)), empty, torch.zeros(0, ndim), empty, plan, [], slices, empty
        )
    rows = []
    for run in runs:
        weights = torch.stack([described[p][1][n] for p, n in run])[:, None]
        vectors = torch.stack([described[p][0][n] for p, n in run])
        area, x, y = torch.stack([moments[p][n] for p, n in run]).T
        places = plan.to_index(
            torch.stack([x + corner[0], y + corner[1]], dim=1), torch.tensor([p for p, _ in run]), slices[0].size
        )
        rows.append(
            (
                (weights * vectors).sum(dim=0) / weights.sum(),
                area.sum(),
                (places * area[:, None]).sum(dim=0) / area.sum(),
                torch.stack([slices[p].predicted_iou[n] for p, n in run]).mean(),
            )
        )
    prototypes, areas, centroids, scores = (torch.stack(column).cpu() for column in zip(*rows))
    return SliceRegions(prototypes, areas, centroids, scores, plan, runs, slices, torch.zeros(len(runs)))


def within(masks: SliceMasks, corner: tuple[int, int], size: tuple[int, int]) -> SliceMasks:
    """Masks of a window as masks of the whole slice.

    Args:
        masks: of the window.
        corner: x, y of its first pixel.
        size: rows and columns of the whole slice.
    """
    x, y = corner
    window = masks.boxes.new_tensor([x, y, x + masks.size[1], y + masks.size[0]])
    return replace(
        masks,
        boxes=masks.boxes + window[[0, 1, 0, 1]],
        points=masks.points + window[:2],
        crops=window.expand(len(masks), 4),
        size=size,
    )


def joined(whole: SliceRegions, closer: SliceRegions) -> SliceRegions:
    """Regions of the first look at whole slices and of the second at a window, as regions of one image."""
    shift = len(whole.slices)
    parts = {
        name: torch.cat([getattr(whole, name), getattr(closer, name)])
        for name in ("prototypes", "areas", "centroids", "scores")
    }
    return SliceRegions(
        **parts,
        plan=whole.plan,
        members=whole.members + [[(position + shift, n) for position, n in run] for run in closer.members],
        slices=whole.slices + closer.slices,
        looks=torch.cat([torch.zeros(len(whole)), torch.ones(len(closer))]),
    )


def slice_moments(masks: SliceMasks) -> Tensor:
    """Area in pixels and centroid x, y in pixels of each mask of a slice: (K, 3)."""
    size = low_size(masks)
    on = masks.masks(size).float()
    cell = masks.size[0] / size[0], masks.size[1] / size[1]
    total = on.sum(dim=(1, 2)).clamp_min(1e-9)
    y = (on.sum(dim=2) @ (torch.arange(size[0], device=on.device) + 0.5)) / total * cell[0]
    x = (on.sum(dim=1) @ (torch.arange(size[1], device=on.device) + 0.5)) / total * cell[1]
    return torch.stack([total * cell[0] * cell[1], x, y], dim=1).cpu()


def link_slices(
    slices: list[SliceMasks], prototypes: list[Tensor], min_overlap: float, min_similarity: float
) -> list[list[tuple[int, int]]]:
    """Runs of masks through neighbouring slices, by the one-to-one assignment of highest IoU + similarity.

    Returns:
        one list of (position, mask number) for each region; masks without a partner are runs of one.
    """
    runs: list[list[tuple[int, int]]] = []
    tail: dict[int, list[tuple[int, int]]] = {}
    for position, masks in enumerate(slices):
        partner: dict[int, int] = {}
        if position and len(masks) and len(slices[position - 1]):
            before = slices[position - 1]
            size = low_size(masks)
            iou = pairwise_overlap(before.masks(size), masks.masks(size), "iou")
            similarity = F.normalize(prototypes[position - 1], dim=1) @ F.normalize(prototypes[position], dim=1).T
            allowed = (iou >= min_overlap) & (similarity >= min_similarity)
            gain = torch.where(allowed, iou + similarity, 0.0).cpu().numpy()
            for i, j in zip(*linear_sum_assignment(gain, maximize=True)):
                if gain[i, j] > 0:
                    partner[int(j)] = int(i)
        current: dict[int, list[tuple[int, int]]] = {}
        for number in range(len(masks)):
            run = tail.get(partner[number]) if number in partner else None
            if run is None:
                run = []
                runs.append(run)
            run.append((position, number))
            current[number] = run
        tail = current
    return runs
