# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""SAMReg: segment everything in both images, match the regions, and on request turn the pairs into a dense field.

Section 4 of Huang et al. 2024, "One registration is worth two segmentations"; docs/reproduce.md lists the differences.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from tqdm import tqdm

from ..common.errors import InputError
from ..correspondence.referee import Referee, keep_better
from ..correspondence.region_masks import RegionMasks
from ..correspondence.result import Registration, timed, working_image
from ..correspondence.slicing import SlicePlan, plan_slices
from ..sam.asked import Window
from ..sam.boxes import BoxEverything
from ..sam.everything import EverythingMode
from ..sam.slice_masks import SliceMasks
from ..spatial.geometry import Geometry
from .centroids import fit_centroids
from .dense import DenseSettings, roi_to_dense
from .doubts import pair_doubts
from .embeddings import embedding_channels
from .focus import focus_window
from .matcher import Matcher
from .pairs import pair_motion, structure_pairs
from .region_filter import RegionFilter, outside, visible
from .regions import SliceRegions, find_regions, joined

ENLARGED = 1.5  # a model that sees the slices enlarged by this factor gains nothing from a second look
THICK = 3.0  # slices thicker than this many pixels are matched one by one


class ROIRegistration:
    """The training-free registration as a MONAI inferer: called with a pair in one tensor and a Segment Anything model.

    Args:
        everything: everything mode and its thresholds.
        keep: which masks count as regions.
        settings: of the dense field.
        matcher: which regions correspond; None takes its defaults.
        linking: "link" joins slice masks into 3-D regions, "slice" matches slice masks only within the same slice,
            "auto" takes "slice" if slices are so thick that a structure changes its outline from one to the next.
        slice_axis: 0, 1, 2 or "auto".
        slice_spacing_mm: least distance of slices shown to SAM; between them regions are interpolated. 0 shows all.
        min_slices: linked regions on fewer slices are dropped.
        second_look: if the images differ in one place and the model does not see the slices enlarged, a window around
            it is segmented once more at a finer resolution. Its regions replace those of the whole slices there.
        dense: also finds the dense field.
        check: keeps the field only if the images agree no less with it, see :mod:`scripts.correspondence.referee`.
        confidence: also keeps the confidence of the field at every voxel; needs ``settings.discrete``.
        progress: shows progress bars.

    Raises:
        InputError: a setting out of range.
    """

    def __init__(
        self,
        everything: EverythingMode | BoxEverything,
        keep: RegionFilter,
        settings: DenseSettings,
        matcher: Matcher | None = None,
        linking: str = "auto",
        slice_axis: int | str = "auto",
        slice_spacing_mm: float = 0.0,
        min_slices: int = 2,
        second_look: bool = True,
        dense: bool = True,
        check: bool = True,
        confidence: bool = False,
        progress: bool = True,
    ) -> None:
        if linking not in ("auto", "link", "slice"):
            raise InputError(f"linking must be auto, link or slice, got {linking!r}.")
        if slice_spacing_mm < 0:
            raise InputError(f"slice_spacing_mm must not be negative, got {slice_spacing_mm}.")
        if confidence and not (dense and settings.discrete):
            raise InputError(
                "confidence compares the field with the search; it needs --discrete True and --dense True."
            )
        self.everything, self.keep, self.settings, self.confidence = everything, keep, settings, confidence
        self.matcher = matcher or Matcher()
        self.linking, self.slice_axis, self.slice_spacing_mm = linking, slice_axis, slice_spacing_mm
        self.min_slices, self.second_look, self.progress = min_slices, second_look, progress
        self.dense, self.check = dense, check

    def __call__(
        self,
        inputs: Tensor,
        network: Sam,
        weight: Tensor | None = None,
        masks: Tensor | None = None,
        detail: Tensor | None = None,
    ) -> Registration:
        """Registers one pair.

        Args:
            inputs: (1, 2C, H, W[, D]) in [0, 1], moving channels first, on the working grid; a MetaTensor with its
                affine.
            network: the Segment Anything model.
            weight: (2, *shape), 0 in voxels of the moving and of the fixed image that are excluded, 1 elsewhere.
            detail: finer images for the check, see :class:`scripts.correspondence.referee.Referee`.
            masks: (2, *shape) moving and fixed labels of structures known by name, equal numbers correspond; or None.
        """
        seconds: dict[str, float] = {}
        image, working = working_image(inputs)
        moving_image, fixed_image = image.chunk(2)
        looks = (None, None) if weight is None else weight
        with timed(seconds, "segment"):
            window = self.window(moving_image, fixed_image, working, network)
            sides = [
                self.regions(img, working, network, name, window, look)
                for img, name, look in ((moving_image, "moving", looks[0]), (fixed_image, "fixed", looks[1]))
            ]
        # Taken out of the list, so that nothing here keeps the embeddings of all slices while the field is found.
        return self.from_regions(sides.pop(0), sides.pop(0), image, working, seconds, weight, masks, detail)

    def from_regions(
        self,
        moving: SliceRegions,
        fixed: SliceRegions,
        image: Tensor,
        working: Geometry,
        seconds: dict[str, float] | None = None,
        weight: Tensor | None = None,
        masks: Tensor | None = None,
        detail: Tensor | None = None,
    ) -> Registration:
        """Registers a pair whose regions are known, so that settings can be compared without segmenting again.

        Args:
            moving: regions of the moving image.
            fixed: regions of the fixed image.
            image: (2C, *shape) in [0, 1], moving channels first, on the working grid.
            working: that grid.
            seconds: wall time by stage so far; stages are added.
            weight: as for a call, like ``masks`` and ``detail``.
            masks: of structures known by name.
            detail: finer images.
        """
        seconds = {} if seconds is None else seconds
        moving_image, fixed_image = image.chunk(2)
        with timed(seconds, "match"):
            matches = self.matcher(moving, fixed, working, within_slices=not self.links(moving.plan, working))
            chosen = ((moving, matches.moving), (fixed, matches.fixed))
            pairs = [RegionMasks(regions.masks(index.tolist())) for regions, index in chosen]
        named = None if masks is None else structure_pairs(masks)
        result = Registration(moving, fixed, matches, *pairs, seconds=seconds)
        result.details["linked"] = self.links(fixed.plan, working)
        result.warnings += pair_doubts(result, self.matcher, self.dense and self.too_few(result))
        if len(matches):
            moving = fixed = chosen = None
            result.moving, result.fixed = result.moving.without_masks(), result.fixed.without_masks()
        if self.dense and named is None and self.too_few(result):
            result.ddf = torch.zeros(1, working.ndim, *working.shape)
        elif self.dense and (len(matches) or named is not None or self.settings.compares_images):
            with timed(seconds, "dense"):
                self.fill_dense(result, working, moving_image, fixed_image, weight, named)
            if self.check:
                with timed(seconds, "check"):
                    keep_better(result, Referee(image, working.spacing, weight, detail), "the dense field")
                result.confidence = None if result.discarded else result.confidence
        return result

    def window(self, moving: Tensor, fixed: Tensor, working: Geometry, network: Sam) -> Window | None:
        """Window x0, y0, x1, y1 of the slices for the second look; None where one look shows enough."""
        plan = plan_slices(working, self.slice_axis, self.slice_spacing_mm)
        stacks = plan.cut(moving), plan.cut(fixed)
        enlarged = network.image_encoder.img_size / max(stacks[0].shape[2:])
        return focus_window(*stacks) if self.second_look and enlarged < ENLARGED else None

    def regions(
        self,
        image: Tensor,
        working: Geometry,
        network: Sam,
        name: str,
        window: Window | None = None,
        look: Tensor | None = None,
    ) -> SliceRegions:
        """Segments everything in one image (C, *shape) and returns its regions.

        The ``window`` is segmented twice. Masks that lie mostly where ``look`` (*shape) is 0 are dropped.
        """
        plan = plan_slices(working, self.slice_axis, self.slice_spacing_mm)
        stack, looks = plan.cut(image), None if look is None else plan.cut(look[None])[:, 0] / 255
        slices = self._segment(network, stack, f"segment {name}", looks, window)
        size, shared = tuple(stack.shape[2:]), (plan, self.keep, self.links(plan, working))
        area = {"min_slices": self.min_slices, "pixel_mm2": plan.pixel_mm2(working.spacing)}
        if window is None:
            return find_regions(slices, *shared, **area)
        x0, y0, x1, y1 = window
        slices = [outside(masks, window) for masks in slices]
        looks = None if looks is None else looks[:, y0:y1, x0:x1]
        closer = self._segment(network, stack[:, :, y0:y1, x0:x1], f"look closer at {name}", looks)
        return joined(
            find_regions(slices, *shared, **area), find_regions(closer, *shared, **area, corner=(x0, y0), size=size)
        )

    def _segment(
        self, network: Sam, stack: Tensor, text: str, looks: Tensor | None = None, window: Window | None = None
    ) -> list[SliceMasks]:
        slices: list[SliceMasks] = []
        step = self.everything.slices_per_batch
        with self._bar(len(stack), text, "slice") as bar:
            for start in range(0, len(stack), step):
                part = stack[start : start + step]
                slices += self.everything(network, part, window)
                bar.update(len(part))
        return slices if looks is None else [visible(masks, look) for masks, look in zip(slices, looks)]

    def links(self, plan: SlicePlan, working: Geometry) -> bool:
        """Whether slice masks are joined into 3-D regions."""
        if self.linking != "auto" or plan.axis is None:
            return self.linking != "slice"
        in_plane = [s for a, s in enumerate(working.spacing) if a != plan.axis]
        return working.spacing[plan.axis] < THICK * max(in_plane)

    def too_few(self, result: Registration) -> bool:
        """Whether, after an initial alignment, there are fewer pairs than an affine map needs.

        The outlines of one or two regions are less certain than the alignment, and a shift of everything costs a smooth
        field nothing: it would follow them.
        """
        aligned = self.matcher.position_sigma_mm != 0 and not self.settings.compares_images
        return aligned and 0 < len(result.matches) <= len(result.moving_masks.shape) - 1

    def fill_dense(
        self,
        result: Registration,
        working: Geometry,
        moving_image: Tensor,
        fixed_image: Tensor,
        weight: Tensor | None = None,
        named: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Adds the dense field to a result; no term looks where ``weight`` (2, *shape) is 0."""
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
            weights = weights if result.matches.certainty is None else weights * result.matches.certainty
            start = fit_centroids(*centroids, weights, float(extent.max()))
        with self._bar(sum(self.settings.level_steps), "dense field", "step") as bar:

            def show(steps: int, objective: float) -> None:
                bar.set_postfix_str(f"objective {objective:.3f}", refresh=False)
                bar.update(steps)

            dense = roi_to_dense(
                result.moving_masks.whole().to(device),
                result.fixed_masks.whole().to(device),
                working.spacing,
                self.settings,
                weights=result.matches.certainty,
                named=None if named is None else tuple(m.to(device) for m in named),
                start=start,
                images=(moving_image, fixed_image),
                valid=None if weight is None else tuple(weight.to(device)),
                embeddings=embedding_channels(result.moving, result.fixed) if self.settings.embedding_weight else None,
                measured=self.confidence,
                progress=show,
            )
        result.ddf = dense.ddf
        result.confidence = dense.confidence
        result.motion_mm = pair_motion(dense.ddf, result.fixed_masks, working.spacing)
        result.details["objective"] = [[round(v, 5) for v in (level[0], min(level))] for level in dense.history]
        result.details["steps"] = [len(level) for level in dense.history]
        result.details["named_structures"] = 0 if named is None else len(named[0])
        result.details["centroid_start"] = dense.start_used

    def _bar(self, total: int, text: str, unit: str) -> tqdm:
        return tqdm(total=total, desc=text, unit=unit, disable=not self.progress, leave=False)
