# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""SAMReg: segment everything in both images, match the regions, and on request turn the pairs into a dense field.

Section 4 of Huang et al. 2024, "One registration is worth two segmentations"; docs/reproduce.md lists what differs.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from tqdm import tqdm

from ..common.errors import InputError
from ..correspondence.matching import Matches, check_settings, cosine_similarity, match, position_prior
from ..correspondence.result import Registration, timed, working_image
from ..correspondence.slicing import SlicePlan, plan_slices
from ..sam.everything import EverythingMode
from ..spatial.geometry import Geometry
from .centroids import fit_centroids
from .dense import DenseSettings, roi_to_dense
from .regions import RegionFilter, SliceRegions, find_regions

ALIGNED_SIGMA = 0.015  # position prior after an initial alignment, share of the diagonal
THICK = 3.0  # slices this many times thicker than their pixels are matched one by one


class ROIRegistration:
    """The training-free registration as a MONAI inferer: called with a pair in one tensor and a Segment Anything model.

    Args:
        everything: everything mode and its thresholds.
        keep: which masks count as regions.
        linking: "link" joins slice masks into 3-D regions, "slice" matches slice masks only within the same slice,
            "auto" takes "slice" where slices are so thick that a structure changes its outline from one to the next.
        slice_axis: 0, 1, 2 or "auto".
        slice_spacing_mm: least distance of slices shown to SAM; between them regions are interpolated. 0 shows all.
        min_slices: linked regions on fewer slices are dropped.
        epsilon: least similarity of a pair, in [0, 1].
        matching: "greedy" (the paper), "hungarian" or "mutual".
        max_pairs: keeps only so many of the best pairs.
        position_sigma_mm: standard deviation of the position prior; 0 for none, as in the paper. None takes a share of
            the image's diagonal that suits images that were aligned before.
        dense: also find the dense field.
        settings: of the dense field.
        progress: shows progress bars.
    """

    def __init__(
        self,
        everything: EverythingMode,
        keep: RegionFilter,
        settings: DenseSettings,
        linking: str = "auto",
        slice_axis: int | str = "auto",
        slice_spacing_mm: float = 0.0,
        min_slices: int = 2,
        epsilon: float = 0.8,
        matching: str = "greedy",
        max_pairs: int | None = None,
        position_sigma_mm: float | None = 0.0,
        dense: bool = True,
        progress: bool = True,
    ) -> None:
        if linking not in ("auto", "link", "slice"):
            raise InputError(f"linking must be auto, link or slice, got {linking!r}.")
        for name, value in (("slice_spacing_mm", slice_spacing_mm), ("position_sigma_mm", position_sigma_mm or 0.0)):
            if value < 0:
                raise InputError(f"{name} must not be negative, got {value}.")
        check_settings(epsilon, matching, max_pairs)
        self.everything, self.keep, self.settings = everything, keep, settings
        self.linking, self.slice_axis, self.slice_spacing_mm = linking, slice_axis, slice_spacing_mm
        self.min_slices, self.epsilon, self.matching, self.max_pairs = min_slices, epsilon, matching, max_pairs
        self.position_sigma_mm, self.dense, self.progress = position_sigma_mm, dense, progress

    def __call__(self, inputs: Tensor, network: Sam) -> Registration:
        """Registers one pair.

        Args:
            inputs: (1, 2C, H, W[, D]) in [0, 1], moving channels first, on the working grid; a MetaTensor with its
                affine.
            network: the Segment Anything model.
        """
        seconds: dict[str, float] = {}
        image, working = working_image(inputs)
        moving_image, fixed_image = image.chunk(2)
        with timed(seconds, "segment"):
            moving, fixed = (
                self.regions(img, working, network, name)
                for img, name in ((moving_image, "moving"), (fixed_image, "fixed"))
            )
        return self.from_regions(moving, fixed, image, working, seconds)

    def from_regions(
        self,
        moving: SliceRegions,
        fixed: SliceRegions,
        image: Tensor,
        working: Geometry,
        seconds: dict[str, float] | None = None,
    ) -> Registration:
        """Registers a pair whose regions are known, so that settings can be compared without segmenting again.

        Args:
            moving: regions of the moving image.
            fixed: regions of the fixed image.
            image: (2C, *shape) in [0, 1], moving channels first, on the working grid.
            working: that grid.
            seconds: wall time by stage so far; stages are added.
        """
        seconds = {} if seconds is None else seconds
        moving_image, fixed_image = image.chunk(2)
        with timed(seconds, "match"):
            matches = self.match(moving, fixed, working)
            masks = moving.masks(matches.moving.tolist()), fixed.masks(matches.fixed.tolist())
        result = Registration(moving, fixed, matches, *masks, seconds=seconds)
        result.details["linked"] = self.links(fixed.plan, working)
        result.warnings += self.doubts(result)
        if self.dense and self.too_few(result):
            result.ddf = torch.zeros(1, working.ndim, *working.shape)
        elif self.dense and (len(matches) or self.settings.image_weight):
            with timed(seconds, "dense"):
                self.fill_dense(result, working, moving_image, fixed_image)
        return result

    def regions(self, image: Tensor, working: Geometry, network: Sam, name: str) -> SliceRegions:
        """Segments everything in one image (C, *shape) and returns its regions."""
        plan = plan_slices(working, self.slice_axis, self.slice_spacing_mm)
        stack = plan.cut(image)
        slices = []
        step = self.everything.slices_per_batch
        with self._bar(len(stack), f"segment {name}", "slice") as bar:
            for start in range(0, len(stack), step):
                part = stack[start : start + step]
                slices += self.everything(network, part)
                bar.update(len(part))
        return find_regions(slices, plan, self.keep, self.links(plan, working), min_slices=self.min_slices)

    def links(self, plan: SlicePlan, working: Geometry) -> bool:
        """Whether slice masks are joined into 3-D regions."""
        if self.linking != "auto" or plan.axis is None:
            return self.linking != "slice"
        in_plane = [s for a, s in enumerate(working.spacing) if a != plan.axis]
        return working.spacing[plan.axis] < THICK * max(in_plane)

    def match(self, moving: SliceRegions, fixed: SliceRegions, working: Geometry) -> Matches:
        """Pairs regions by prototype, and by position where a prior is set."""
        prior = None
        spacing = torch.tensor(working.spacing)
        sigma = self.position_sigma_mm
        if sigma is None:
            sigma = ALIGNED_SIGMA * float((torch.tensor(working.shape) * spacing).norm())
        if sigma:
            prior = position_prior(moving.centroids * spacing, fixed.centroids * spacing, sigma)
        if moving.plan.axis is not None and not self.links(moving.plan, working):
            axis = moving.plan.axis
            same = (moving.centroids[:, None, axis] - fixed.centroids[None, :, axis]).abs() < 0.5
            prior = same.float() if prior is None else prior * same
        similarity = cosine_similarity(moving.prototypes, fixed.prototypes)
        return match(similarity, self.epsilon, self.matching, self.max_pairs, prior)

    def doubts(self, result: Registration) -> list[str]:
        """What the user should know about the pairs, one sentence each."""
        for name, regions in (("moving", result.moving), ("fixed", result.fixed)):
            if not len(regions):
                found = sum(len(s) for s in regions.slices)
                return [
                    f"No region was found in the {name} image ({found} masks after the filter); lower "
                    "--pred_iou_thresh or --stability_score_thresh, widen --min_area and --max_area, or try "
                    "another --window or --sam."
                ]
        if not len(result.matches):
            return [
                f"None of {len(result.moving)} moving and {len(result.fixed)} fixed regions match above epsilon "
                f"{self.epsilon:g} (the most similar two have {result.matches.best:.2f}); lower --epsilon."
            ]
        if self.dense and self.too_few(result):
            return [
                f"The pairs of regions found after the initial alignment ({len(result.matches)}) are too few to "
                "better it: the field is the alignment alone; lower --pred_iou_thresh, or set --image_weight."
            ]
        if len(result.matches) == 1:
            return ["Only one pair of regions was found: away from it the field is little more than a translation."]
        return []

    def too_few(self, result: Registration) -> bool:
        """Whether the pairs, after an initial alignment, are fewer than an affine map needs.

        The outlines of one or two regions are less sure than the alignment, and a shift of everything costs a smooth
        field nothing: it would follow them.
        """
        aligned = self.position_sigma_mm != 0 and not self.settings.image_weight
        return aligned and 0 < len(result.matches) <= result.moving_masks.ndim - 1

    def fill_dense(self, result: Registration, working: Geometry, moving_image: Tensor, fixed_image: Tensor) -> None:
        """Adds the dense field to a result."""
        device = moving_image.device
        start = None
        extent = torch.tensor(working.shape) * torch.tensor(working.spacing)
        if len(result.matches):
            spacing = torch.tensor(working.spacing)
            centroids = [
                (regions.centroids[chosen] + 0.5) * spacing
                for regions, chosen in ((result.moving, result.matches.moving), (result.fixed, result.matches.fixed))
            ]
            weights = result.matches.score * result.fixed.areas[result.matches.fixed].sqrt()
            start = fit_centroids(*centroids, weights, float(extent.max()))
        with self._bar(self.settings.steps * self.settings.levels, "dense field", "step") as bar:

            def show(steps: int, objective: float) -> None:
                bar.set_postfix_str(f"objective {objective:.3f}", refresh=False)
                bar.update(steps)

            dense = roi_to_dense(
                result.moving_masks.to(device),
                result.fixed_masks.to(device),
                working.spacing,
                self.settings,
                start=start,
                images=(moving_image, fixed_image) if self.settings.image_weight else None,
                progress=show,
            )
        result.ddf = dense.ddf
        result.details["objective"] = [[round(v, 5) for v in (level[0], min(level))] for level in dense.history]
        result.details["steps"] = [len(level) for level in dense.history]
        result.details["centroid_start"] = dense.start_used

    def _bar(self, total: int, text: str, unit: str) -> tqdm:
        return tqdm(total=total, desc=text, unit=unit, disable=not self.progress, leave=False)
