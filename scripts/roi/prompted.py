# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Prompted correspondence: a point, box or mask in one image, and the same region found in the other.

The prompt gives a region on one slice and its prototype; the embedding of the other image is compared with it; the best
places there become prompts in turn, and of their masks the one whose prototype agrees best is the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from ..common.errors import InputError
from ..correspondence.matching import Matches
from ..correspondence.result import Registration, timed, working_image
from ..correspondence.slicing import SlicePlan, plan_slices
from ..data.prompt import WorkingPrompt
from ..sam.prompts import EncodedSlices, Prompt
from ..sam.slice_masks import SliceMasks
from ..sam.suppress import pairwise_overlap
from .regions import find_regions, slice_prototypes


def box_centres(masks: SliceMasks) -> Tensor:
    """Centres (K, 2) of the boxes, x, y in pixels."""
    return (masks.boxes[:, :2] + masks.boxes[:, 2:]) / 2


@dataclass(frozen=True, eq=False)
class Found:
    """A region on one slice.

    Attributes:
        position: slice number.
        masks: that slice with exactly one mask.
        prototype: (C,) mean embedding under the mask.
        similarity: cosine similarity with the prototype that was sought; 1 in the source image.
    """

    position: int
    masks: SliceMasks
    prototype: Tensor
    similarity: float


class PromptedCorrespondence:
    """A MONAI inferer that finds one region in both images of a pair.

    Args:
        search_mm: standard deviation of the prior that the region lies at the same place in both images.
        search_slices: slices to either side that are searched.
        candidates: places on each slice that are tried as prompts.
        propagate: follows the region through neighbouring slices in both images.
        slice_axis: 0, 1, 2 or "auto".
        epsilon: similarity under which the answer is doubtful and the region is not followed any further, in [0, 1].

    Raises:
        InputError: epsilon outside [0, 1].
    """

    def __init__(
        self,
        search_mm: float = 30.0,
        search_slices: int = 2,
        candidates: int = 3,
        propagate: bool = True,
        slice_axis: int | str = "auto",
        epsilon: float = 0.8,
    ) -> None:
        if not 0 <= epsilon <= 1:
            raise InputError(f"epsilon must lie in [0, 1], got {epsilon}.")
        self.search_mm, self.search_slices, self.candidates = search_mm, search_slices, candidates
        self.propagate, self.slice_axis, self.epsilon = propagate, slice_axis, epsilon

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
        encoded = {name: EncodedSlices(network, plan.cut(half)) for name, half in halves.items()}
        with timed(seconds, "prompt"):
            begin = self._source_region(encoded[prompt.source], prompt, plan)
        pixel_mm = [s for a, s in enumerate(working.spacing) if a != plan.axis]
        with timed(seconds, "search"):
            answer = self._search(encoded[other], begin, sum(pixel_mm) / len(pixel_mm))
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
        masks = [regions[n].masks([0]) for n in ("moving", "fixed")]
        result = Registration(regions["moving"], regions["fixed"], matches, *masks, seconds=seconds)
        if answer.similarity < self.epsilon:
            result.warnings.append(
                f"The region found in the {other} image is only {answer.similarity:.2f} similar (epsilon "
                f"{self.epsilon:g}); look at it before you use it."
            )
        return result

    def _source_region(self, source: EncodedSlices, prompt: WorkingPrompt, plan: SlicePlan) -> Found:
        """The region that the user means, on one slice."""
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
            masks = source.masks(position, Prompt(points, prompt.labels, box, rough))[:1]
        if not (masks.logits > masks.threshold).any():
            raise InputError("The prompt gives an empty region; move the point into the structure or give a box.")
        prototype = slice_prototypes(masks)[0][0]
        return Found(position, masks, prototype, 1.0)

    def _given(self, source: EncodedSlices, mask: Tensor, plan: SlicePlan) -> list[Found]:
        """A mask that the user gave, on every slice that it touches; without propagation on the fullest one."""
        stack = plan.cut(mask[None].float())[:, 0] > 127
        area = stack.flatten(1).sum(dim=1)
        positions = area.nonzero()[:, 0] if self.propagate else area.argmax()[None]
        return [Found(p, source.given(p, stack[p]), torch.zeros(0), 1.0) for p in positions.tolist()]

    def _search(self, target: EncodedSlices, begin: Found, pixel_mm: float) -> Found:
        """The region of the other image that is most like the one sought, in kind, size and place."""
        sought = begin.masks.masks()[0].sum()
        best, best_score = None, -1.0
        low, high = begin.position - self.search_slices, begin.position + self.search_slices
        for position in range(max(0, low), min(len(target), high + 1)):
            for masks in self._candidates(target, position, begin, pixel_mm):
                prototypes, weights = slice_prototypes(masks)
                similarity = F.cosine_similarity(prototypes, begin.prototype[None], dim=1)
                size = masks.masks().flatten(1).sum(dim=1)
                # Of nested masks around one place the one of similar size is meant.
                ratio = torch.minimum(size, sought) / torch.maximum(size, sought).clamp_min(1)
                apart = (box_centres(masks) - box_centres(begin.masks)).norm(dim=1) * pixel_mm
                near = torch.exp(-((apart / self.search_mm) ** 2) / 2)
                score = similarity * (ratio * masks.predicted_iou.clamp(0, 1) * near).sqrt()
                score = torch.where(weights > 0, score, -1.0)
                k = int(score.argmax())
                if float(score[k]) > best_score:
                    best_score = float(score[k])
                    best = Found(position, masks[k : k + 1], prototypes[k], float(similarity[k]))
        if best is None:
            raise InputError(
                "No region was found in the other image near the prompt; widen --search_mm or --search_slices."
            )
        return best

    def _candidates(self, target: EncodedSlices, position: int, begin: Found, pixel_mm: float) -> Iterator[SliceMasks]:
        """Masks that may be the region sought: of the most similar places, and whatever the model proposes."""
        for place in self._places(target, position, begin, pixel_mm):
            yield target.masks(position, Prompt(place[None], torch.ones(1)))
        proposed = target.proposed(position, begin.masks.boxes[0])
        if proposed is not None and len(proposed):
            yield proposed

    def _places(self, target: EncodedSlices, position: int, begin: Found, pixel_mm: float) -> list[Tensor]:
        """The most similar places of a slice (x, y pixels), near the sought region first."""
        embedding = target.described(target.empty(position), position).embedding
        inner = [max(1, round(s)) for s in begin.masks.inner]
        features = F.normalize(embedding[:, : inner[0], : inner[1]], dim=0)
        similarity = torch.einsum("chw,c->hw", features, F.normalize(begin.prototype, dim=0))
        cell = torch.tensor([target.size[1] / inner[1], target.size[0] / inner[0]])
        x = (torch.arange(inner[1]) + 0.5) * cell[0]
        y = (torch.arange(inner[0]) + 0.5) * cell[1]
        x0, y0, x1, y1 = begin.masks.boxes[0].cpu()
        squared = ((x[None] - (x0 + x1) / 2) ** 2 + (y[:, None] - (y0 + y1) / 2) ** 2) * pixel_mm**2
        score = similarity.cpu().clamp_min(0) * torch.exp(-squared / (2 * self.search_mm**2))
        places = []
        for _ in range(self.candidates):
            k = int(score.argmax())
            row, column = divmod(k, inner[1])
            places.append(torch.stack([x[column], y[row]]))
            # The neighbourhood of a place is asked once.
            score[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = -1
        return places

    def _follow(self, slices: EncodedSlices, begin: Found) -> list[Found]:
        """The region on its own slice and, one by one, on the neighbouring slices as long as it stays itself."""
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
