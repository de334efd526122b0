# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Prompted correspondence: a point, box or mask in one image, and the same region found in the other.

The prompt gives a region on one slice. Its mask is carried to the slices of the other image by the features of single
cells (:mod:`scripts.roi.carry`). On the slices where the carried mask is most like the region, boxes around it become
prompts. The answer is the mask drawn there that agrees best in prototype and outline, and that gives the region again
when it is carried back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from ..common.errors import InputError
from ..correspondence.matching import Matches
from ..correspondence.region_masks import RegionMasks
from ..correspondence.result import Registration, timed, working_image
from ..correspondence.slicing import SlicePlan, plan_slices
from ..data.prompt import WorkingPrompt
from ..sam.everything import encode
from ..sam.prompts import EncodedSlices, Encoder, Prompt, clicked_order
from ..sam.slice_masks import SliceMasks
from ..sam.suppress import pairwise_overlap
from ..spatial.geometry import Geometry
from .carry import boxes_of, carried, soft_iou
from .regions import cell_coverage, find_regions, slice_prototypes

STEP_MM = 7.0  # least distance between the slices that are compared


@dataclass(frozen=True, eq=False)
class Found:
    """A region on one slice.

    Attributes:
        position: slice number.
        masks: that slice with exactly one mask.
        prototype: (C,) mean embedding under the mask.
        similarity: cosine similarity with the prototype of the prompt; 1 in the source image.
    """

    position: int
    masks: SliceMasks
    prototype: Tensor
    similarity: float


class PromptedCorrespondence:
    """A MONAI inferer that finds one region in both images of a pair.

    Args:
        search_mm: standard deviation of the prior that the region is at the same place in both images.
        search_slices: slices to either side that are compared, at least 7 mm apart.
        tried_slices: number of the most promising of these, on which masks are drawn.
        propagate: follows the region through neighbouring slices in both images.
        slice_axis: 0, 1, 2 or "auto".
        epsilon: similarity under which the answer is doubtful and the region is not followed any further, in [0, 1].
        encoder: encodes slices, see :class:`scripts.sam.prompts.EncodedSlices`.

    Raises:
        InputError: epsilon outside [0, 1].
    """

    def __init__(
        self,
        search_mm: float = 30.0,
        search_slices: int = 3,
        tried_slices: int = 2,
        propagate: bool = True,
        slice_axis: int | str = "auto",
        epsilon: float = 0.8,
        encoder: Encoder = encode,
    ) -> None:
        if not 0 <= epsilon <= 1:
            raise InputError(f"epsilon must lie in [0, 1], got {epsilon}.")
        self.search_mm, self.search_slices, self.tried_slices = search_mm, search_slices, tried_slices
        self.propagate, self.slice_axis, self.epsilon = propagate, slice_axis, epsilon
        self._encoder = encoder  # private, because the place of the embeddings does not affect a result

    def __call__(self, inputs: Tensor, network: Sam, prompt: WorkingPrompt) -> Registration:
        """Finds the region.

        Args:
            inputs: (1, 2C, H, W[, D]) in [0, 1] on the working grid, moving channels first.
            network: the Segment Anything model.
            prompt: on the working grid.

        Returns:
            a result with one pair and no dense field.

        Raises:
            InputError: the prompt gives no region.
        """
        seconds: dict[str, float] = {}
        image, working = working_image(inputs)
        plan = plan_slices(working, self.slice_axis)
        halves = dict(zip(("moving", "fixed"), image.chunk(2)))
        other = "fixed" if prompt.source == "moving" else "moving"
        encoded = {name: EncodedSlices(network, plan.cut(half), self._encoder) for name, half in halves.items()}
        with timed(seconds, "prompt"):
            begin = self.region(encoded[prompt.source], prompt, plan)
        with timed(seconds, "search"):
            answer = self.partner(encoded[other], begin, plan, working)
        regions = {}
        with timed(seconds, "follow"):
            for name, found in ((prompt.source, begin), (other, answer)):
                slices = [encoded[name].empty(found.position)] * len(encoded[name])
                given = name == prompt.source and prompt.only_mask
                chain = self._given(encoded[name], prompt.mask, plan) if given else self._follow(encoded[name], found)
                for one in chain:
                    slices[one.position] = one.masks
                regions[name] = find_regions(slices, plan, keep=None, link=True, link_overlap=0.0, link_similarity=-1.0)
        one = torch.zeros(1, dtype=torch.long)
        score = torch.tensor([max(answer.similarity, 0.0)])
        matches = Matches(one, one, score, score, float(score))
        masks = [RegionMasks(regions[n].masks([0])) for n in ("moving", "fixed")]
        result = Registration(regions["moving"], regions["fixed"], matches, *masks, seconds=seconds)
        if answer.similarity < self.epsilon:
            result.warnings.append(
                f"The region found in the {other} image is only {answer.similarity:.2f} similar (epsilon "
                f"{self.epsilon:g}); look at it before you use it."
            )
        return result

    def region(self, source: EncodedSlices, prompt: WorkingPrompt, plan: SlicePlan) -> Found:
        """The region of the prompt, on one slice.

        Args:
            source: the image of the prompt.
            prompt: on the working grid.
            plan: how that grid was cut into slices.

        Raises:
            InputError: the prompt gives no region.
        """
        rough = None
        if prompt.mask is not None:
            stack = plan.cut(prompt.mask[None].float())[:, 0] > 127
            position = int(stack.flatten(1).sum(dim=1).argmax())
            rough = stack[position]
        else:
            places = prompt.points if len(prompt.points) else prompt.box.mean(dim=0, keepdim=True)
            _, positions = plan.from_index(places, source.size)
            if len(set(positions.tolist())) > 1:
                raise InputError(
                    f"The points lie on the slices {sorted(set(positions.tolist()))}; give points of one slice."
                )
            position = int(positions[0])
        points = plan.from_index(prompt.points, source.size)[0] if len(prompt.points) else torch.zeros(0, 2)
        box = None
        if prompt.box is not None:
            corners = plan.from_index(prompt.box, source.size)[0]
            box = torch.cat([corners.amin(dim=0), corners.amax(dim=0)])
        if prompt.only_mask:
            masks = source.given(position, rough)
        else:
            masks = source.masks(position, Prompt(points, prompt.labels, box, rough))
            if not hasattr(source.sam, "proposals"):  # these tell a structure from the one around it
                masks = masks[clicked_order(masks.masks(), masks.predicted_iou)]
            masks = masks[:1]
        if not (masks.logits > masks.threshold).any():
            raise InputError("The prompt gives an empty region; move the point into the structure or give a box.")
        prototype = slice_prototypes(masks)[0][0]
        return Found(position, masks, prototype, 1.0)

    def _given(self, source: EncodedSlices, mask: Tensor, plan: SlicePlan) -> list[Found]:
        """A given mask on every slice that it touches; without propagation, on the slice with most of it."""
        stack = plan.cut(mask[None].float())[:, 0] > 127
        area = stack.flatten(1).sum(dim=1)
        positions = area.nonzero()[:, 0] if self.propagate else area.argmax()[None]
        return [Found(p, source.given(p, stack[p]), torch.zeros(0), 1.0) for p in positions.tolist()]

    def partner(self, target: EncodedSlices, begin: Found, plan: SlicePlan, working: Geometry) -> Found:
        """The region of the other image that is most like the given one in prototype, outline and position.

        Args:
            target: the other image.
            begin: the given region.
            plan: how the working grid was cut into slices.
            working: that grid.

        Raises:
            InputError: no region was found.
        """
        pixel_mm = [s for a, s in enumerate(working.spacing) if a != plan.axis]
        sigma_px = self.search_mm * len(pixel_mm) / sum(pixel_mm)
        slice_mm = working.spacing[plan.axis] if plan.axis is not None else 1.0
        rated = []
        for position in self._positions(begin.position, len(target), slice_mm):
            shares = carried(begin.masks, target.features(position), sigma_px)
            near = math.exp(-(((position - begin.position) * slice_mm / self.search_mm) ** 2) / 2)
            rated.append((near * likeness(begin, target.features(position), shares), position, shares))
        best, best_score = None, -1.0
        for rating, position, shares in sorted(rated, key=lambda r: -r[0])[: self.tried_slices]:
            masks = target.boxed(position, boxes_of(shares, target.features(position)))
            if not len(masks):
                continue
            prototypes, _ = slice_prototypes(masks)
            similarity = F.cosine_similarity(prototypes, begin.prototype[None], dim=1)
            agreement = soft_iou(cell_coverage(masks), shares)
            back = torch.stack(
                [carried(m, begin.masks, sigma_px) for m in (masks[k : k + 1] for k in range(len(masks)))]
            )
            cycle = soft_iou(back, cell_coverage(begin.masks))
            score = rating * similarity * (agreement * cycle * masks.predicted_iou.clamp(0, 1)).clamp_min(0).sqrt()
            k = int(score.argmax())
            if float(score[k]) > best_score:
                best_score = float(score[k])
                best = Found(position, masks[k : k + 1], prototypes[k], float(similarity[k]))
        if best is None:
            raise InputError(
                "No region was found in the other image near the prompt; widen --search_mm or --search_slices."
            )
        return best

    def _positions(self, begin: int, count: int, slice_mm: float) -> list[int]:
        """The slices to compare: ``search_slices`` to either side, at least ``STEP_MM`` apart."""
        step = max(1, round(STEP_MM / slice_mm))
        reach = self.search_slices * step
        return [p for p in range(begin - reach, begin + reach + 1, step) if 0 <= p < count]

    def _follow(self, slices: EncodedSlices, begin: Found) -> list[Found]:
        """The region on its own slice and, one by one, on the neighbouring slices until it changes too much."""
        chain = [begin]
        if not self.propagate:
            return chain
        for step in (-1, 1):
            current, position = begin, begin.position + step
            while 0 <= position < len(slices):
                on = current.masks.logits > current.masks.threshold
                box = Prompt(torch.zeros(0, 2), torch.zeros(0), current.masks.boxes[0])
                masks = slices.masks(position, box)[:1]
                here = masks.logits > masks.threshold
                if not here.any() or float(pairwise_overlap(on, here, "iou")) < 0.4:
                    break
                prototype = slice_prototypes(masks)[0][0]
                similarity = float(F.cosine_similarity(prototype, begin.prototype, dim=0))
                if similarity < self.epsilon:
                    break
                current = Found(position, masks, prototype, similarity)
                chain.append(current)
                position += step
        return chain


def likeness(begin: Found, features: SliceMasks, shares: Tensor) -> float:
    """Likeness of a region and what was carried to another slice, in prototype and in area."""
    prototype = (shares * features.embedding).sum(dim=(1, 2))
    area, wanted = float(shares.sum()), float(cell_coverage(begin.masks).sum())
    similarity = float(F.cosine_similarity(prototype, begin.prototype, dim=0))
    return max(similarity, 0.0) * (min(area, wanted) / max(area, wanted, 1e-9)) ** 0.5
