# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The registration network as a MONAI inferer; its result has the same type as that of ROI registration."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from ..common.errors import InputError
from ..correspondence.matching import Matches, cosine_similarity
from ..correspondence.referee import Referee, keep_better
from ..correspondence.region_masks import RegionMasks
from ..correspondence.regions import Regions
from ..correspondence.result import Registration, timed, working_image
from ..correspondence.slicing import plan_slices
from ..losses.pair import LossPair, structure_masks
from ..losses.prototype import prototypes
from ..spatial.geometry import Geometry
from ..spatial.warp import compose, warp
from .pair_network import PairNetwork
from .refine import RefineSettings, refine


class NetworkRegistration:
    """Registers a pair with its masks by a trained network.

    The structures of the masks become the paired regions of the result; the similarity of a pair is that of its
    prototypes in the finest image features.

    Args:
        settings: of the instance optimisation.
        progress: whether to show a progress bar.
        check: keeps the field of a stage only if the images agree better with it
            (:mod:`scripts.correspondence.referee`).
        passes: of the network over the pair. Each pass after the first registers the moving image as moved so far, so
            that it finds the motion which the passes before it missed. This is a recursive cascade whose members share
            their weights (Zhao et al., ICCV 2019); the paper has one pass.

    Raises:
        InputError: fewer than one pass.
    """

    def __init__(self, settings: RefineSettings, progress: bool = True, check: bool = True, passes: int = 1) -> None:
        if passes < 1:
            raise InputError(f"The passes of the network must be at least 1, got {passes}.")
        self.settings, self.progress, self.check, self.passes = settings, progress, check, passes

    def __call__(self, inputs: Tensor, network: PairNetwork, weight: Tensor | None = None) -> Registration:
        """Registers one pair.

        Args:
            inputs: (1, 4, H, W[, D]) moving, fixed, moving mask, fixed mask on the working grid; a MetaTensor with its
                affine.
            network: the registration network.
            weight: (2, *shape), 0 in voxels of the moving and of the fixed image that are excluded, 1 elsewhere.

        Raises:
            InputError: the image does not have the number of dimensions that the network was trained for.
        """
        seconds: dict[str, float] = {}
        image, working = working_image(inputs)
        if working.ndim != network.spatial_dims:
            raise InputError(
                f"The images are {working.ndim}-D and the network is {network.spatial_dims}-D; train one with "
                f"--spatial_dims {working.ndim}, or use --method samreg."
            )
        masks = image[2:]
        with timed(seconds, "network"):
            prediction = network.predict(image[None])
        if not torch.isfinite(prediction.ddf).all():
            raise InputError("The network predicts a field that is not finite; its weights do not suit these images.")
        result = paired_structures(prediction.moving[0], prediction.fixed[0], masks, network.structures, working)
        result.ddf, result.seconds = prediction.ddf, seconds
        referee = Referee(image[:2], working.spacing, weight) if self.check else None
        kept = keep_better(result, referee, "the field of the network")
        for number in range(2, self.passes + 1):
            if not kept:  # the next pass would see the same images
                break
            before = result.ddf
            with timed(seconds, "network"):
                result.ddf = compose(before, network(moved_pair(image[None], before)))
            kept = keep_better(result, referee, f"pass {number} of the network", before)
        if not masks.any():
            result.warnings.append(
                "No masks of structures were given. The network was trained with masks and is less accurate without "
                "them; give --moving_mask and --fixed_mask."
            )
        elif not len(result.matches):
            result.warnings.append("No structure has a mask in both images; the network is less accurate without.")
        if self.settings.steps:
            pair = LossPair(image[:2], masks, network.structures, working.spacing, valid=weight)
            with (
                timed(seconds, "instance"),
                tqdm(total=self.settings.steps + 1, desc="refine", disable=not self.progress, leave=False) as bar,
            ):

                def show(loss: float) -> None:
                    bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                    bar.update(1)

                before = result.ddf
                result.ddf, history = refine(before, pair, self.settings, show)
            keep_better(result, referee, "the instance optimisation", before)
            if result.discarded and bool((result.ddf != before).any()):
                result.discarded = False  # it succeeded where the network had failed
            result.details["instance"] = {
                "steps": len(history) - 1,
                "loss": [round(v, 5) for v in (history[0], min(history))],
            }
        return result


def moved_pair(image: Tensor, ddf: Tensor) -> Tensor:
    """A pair (B, 4, *shape) as :class:`PairNetwork` takes it, its moving image and mask warped by (B, n, *shape)."""
    moving, fixed, moving_mask, fixed_mask = image.split(1, dim=1)
    moved_mask = warp(moving_mask, ddf, mode="nearest", padding="zeros")
    return torch.cat([warp(moving, ddf), fixed, moved_mask, fixed_mask], dim=1)


def paired_structures(
    moving: Tensor, fixed: Tensor, labels: Tensor, structures: int, working: Geometry
) -> Registration:
    """The structures present in both masks as pairs of regions, without a field.

    ``moving`` and ``fixed`` are the finest image features, (C, ...) or (1, C, ...), at least as large as the grid;
    ``labels`` are (2, *shape) moving and fixed labels.
    """
    crop = (slice(None), *(slice(0, s) for s in working.shape))
    sides = []
    for features, label in zip((moving, fixed), labels):
        masks = structure_masks(label, structures)
        centres, known = prototypes(features.reshape(features.shape[-1 - working.ndim :])[crop].float(), masks)
        sides.append((masks, centres, known))
    both = (sides[0][2] & sides[1][2]).nonzero()[:, 0]
    plan = plan_slices(working)
    regions = []
    for masks, centres, _ in sides:
        kept = masks[both]
        area = kept.flatten(1).sum(dim=1)
        grids = torch.meshgrid(*[torch.arange(s, device=kept.device) for s in working.shape], indexing="ij")
        centroids = torch.stack([(kept * g).flatten(1).sum(dim=1) / area for g in grids], dim=1)
        regions.append(Regions(centres[both].detach().cpu(), area.cpu(), centroids.cpu(), None, plan))
    similarity = cosine_similarity(regions[0].prototypes, regions[1].prototypes).diagonal()
    order = torch.arange(len(both))
    matches = Matches(order, order, similarity, similarity, float(similarity.max()) if len(both) else 0.0)
    covered = (RegionMasks((side[0][both] * 255).round().to(torch.uint8).cpu()) for side in sides)
    return Registration(*regions, matches, *covered)
