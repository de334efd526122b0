"""A Segment Anything that never errs: masks of a label map, in the form in which everything mode gives them."""

from __future__ import annotations

import torch
from torch import Tensor

from scripts.correspondence.matching import cosine_similarity, match
from scripts.correspondence.region_masks import RegionMasks
from scripts.correspondence.result import Registration
from scripts.correspondence.slicing import SlicePlan, plan_slices
from scripts.roi.region_filter import RegionFilter
from scripts.roi.regions import SliceRegions, find_regions
from scripts.sam.slice_masks import SliceMasks
from scripts.spatial.geometry import Geometry

TOKENS = 24


def perfect_regions(label: Tensor, values: list[int], plan: SlicePlan) -> SliceRegions:
    """Regions of some values of a label map (*shape); each value has an embedding direction of its own."""
    slices = []
    one_hot = torch.stack([label == v for v in values]).float()
    stacks = torch.stack([plan.cut(m[None])[:, 0] / 255 for m in one_hot], dim=1)
    for stack in stacks:
        soft = torch.nn.functional.interpolate(stack[None], (4 * TOKENS, 4 * TOKENS), mode="area")[0]
        embedding = torch.nn.functional.adaptive_avg_pool2d(soft, TOKENS) + 1e-3
        present = (soft > 0.5).flatten(1).any(dim=1)
        logits = (soft[present] - 0.5) * 12
        empty = SliceMasks.empty(embedding, (4 * TOKENS, 4 * TOKENS), 4 * TOKENS, tuple(stack.shape[1:]), 0.0)
        ones = torch.ones(len(logits))
        slices.append(empty.with_masks(logits, ones * 0.95, ones, torch.zeros(2)))
    return find_regions(slices, plan, RegionFilter(0.0, 1.0, 0.9, "iou", 1.0), link=True)


def perfect_registration(moving: Tensor, fixed: Tensor, values: list[int], grid: Geometry) -> Registration:
    """Regions and matches of two label maps on one grid, no dense field yet."""
    plan = plan_slices(grid)
    a, b = perfect_regions(moving, values, plan), perfect_regions(fixed, values, plan)
    matches = match(cosine_similarity(a.prototypes, b.prototypes), 0.8)
    masks = (RegionMasks(r.masks(index.tolist())) for r, index in ((a, matches.moving), (b, matches.fixed)))
    return Registration(a, b, matches, *masks)
