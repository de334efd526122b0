# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Whether a stage improved a registration, judged by two measures of the images.

Two measures compare the images: the mutual information of all intensities, and the mean difference of their
self-similarity (MIND-SSC). A field that makes both clearly worse is discarded, unless the matched regions overlap far
better with it. What a stage optimises improves anyway, so pictures are also compared in finer detail than any stage has
seen, and a field that worsens its self-similarity is discarded. A field is kept but reported to the user if it makes
both measures slightly worse or one of them clearly, separates the matched regions, folds, or changes volumes
implausibly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses.mind import mind
from ..losses.similarity import local_mean
from ..metrics.jacobian import jacobian_determinant
from ..spatial.geometry import coarser
from ..spatial.likeness import BINS, foreground, shared_information
from ..spatial.warp import resize_ddf, warp
from .result import Registration

SIDE = 72  # voxels along the longest side of the grid on which images are compared
TOLERANCE = 0.003  # relative loss that counts as unchanged
WORSE = 0.02  # relative loss of both measures above which a field is discarded
GAIN = 0.05  # of the Dice of the matched regions: evidence enough to keep such a field, with a doubt
CLEAR = 0.05  # relative loss of one measure above which the user is told
SMOOTH = 3  # voxels; both images are blurred, because interpolation blurs the warped one, which noise would penalise
FOLDS, VOLUMES = 1.0, (0.2, 5.0)  # percent of voxels; plausible changes of volume (1st and 99th percentile)


@dataclass(frozen=True)
class Measures:
    """The quality of a field.

    Attributes:
        information: mutual information over the mean entropy of the images, in [0, 1]; higher is better.
        structure: mean difference of the self-similarity of the images, in [0, 1]; lower is better.
        regions: mean Dice of the matched regions; None without regions.
        folds_percent: of the voxels.
        volumes: 1st and 99th percentile of the Jacobian determinant in the body of the fixed image; the field in the
            air around it is what the smoothness makes of it.
        detail: as ``structure``, of details that no stage has seen; None without such details.
    """

    information: float
    structure: float
    regions: float | None
    folds_percent: float
    volumes: tuple[float, float]
    detail: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether the field of a stage is kept.

    Attributes:
        kept: False if the previous field is better.
        doubts: sentences for the user.
        before: measures without the stage.
        after: measures with it.
    """

    kept: bool
    doubts: list[str]
    before: Measures
    after: Measures

    def record(self) -> dict:
        """Plain values for the record of the run."""
        rounded = {
            name: {k: np.round(v, 4).tolist() for k, v in asdict(getattr(self, name)).items() if v is not None}
            for name in ("before", "after")
        }
        return {"kept": self.kept, **rounded}


class Referee:
    """Compares fields of one pair of images.

    Args:
        image: (2C, *shape), moving channels first, on the working grid.
        spacing: mm of this grid.
        weight: (2, *shape), 0 in excluded voxels of the moving or the fixed image; None excludes nothing.
        detail: (2, *finer) moving and fixed image on a finer grid than any stage sees; None if there is none.
    """

    def __init__(
        self, image: Tensor, spacing: Sequence[float], weight: Tensor | None = None, detail: Tensor | None = None
    ) -> None:
        shape = image.shape[1:]
        self.full = tuple(shape)
        target = max(n * s for n, s in zip(shape, spacing)) / SIDE
        self.shape = coarser(shape, spacing, target)
        self.spacing = [n * s / m for n, s, m in zip(shape, spacing, self.shape)]
        grey = torch.stack([half.float().mean(dim=0) for half in image.chunk(2)])
        finest = min(d for d, n in zip(self.spacing, self.shape) if n > 1)
        kernel = [SMOOTH if n > SMOOTH and d < 1.5 * finest else 1 for d, n in zip(self.spacing, self.shape)]
        self.moving, self.fixed = local_mean(self._small(grey)[None], kernel)[0].split(1)
        looks = torch.ones_like(grey) if weight is None else weight.to(grey)
        self.body = torch.from_numpy(foreground(self.fixed[0].cpu().numpy()))
        # A voxel counts only if no part of it is excluded.
        self.looks = (self._small(looks) > 0.999).float()
        self.fixed_mind = mind(self.fixed[None], spacing=self.spacing)
        self.detail = None if detail is None else detail.to(grey)

    def _small(self, x: Tensor) -> Tensor:
        return x if tuple(x.shape[1:]) == self.shape else F.interpolate(x[None], self.shape, mode="area")[0]

    @torch.no_grad()
    def measure(self, field: Tensor, where: Tensor, masks: tuple[Tensor, Tensor] | None = None) -> Measures:
        """Measures a field.

        Args:
            field: (1, n, *shape) voxels of the working grid.
            where: bool, the voxels of the referee's grid to compare, see :meth:`seen`.
            masks: coverage of the matched regions, moving and fixed, (K, *grid of the referee).
        """
        moved = warp(self.moving[None], resize_ddf(field, self.shape))
        information = structure = 0.0
        if int(where.sum()) > BINS**2:
            a, b = (x[where].cpu().numpy() for x in (self.fixed[0], moved[0, 0]))
            information = shared_information(np.histogram2d(a, b, BINS, ((0, 1), (0, 1)))[0])
            apart = (mind(moved, spacing=self.spacing) - self.fixed_mind).abs().mean(dim=1)[0]
            structure = float(apart[where].mean())
        jacobian = jacobian_determinant(field)[0].cpu()
        body = F.interpolate(self.body[None, None].float(), jacobian.shape)[0, 0] > 0
        low, high = np.percentile(jacobian[body].numpy(), (1, 99)).tolist()
        regions = overlap(resize_ddf(field, self.shape), masks)
        folds = float((jacobian <= 0).float().mean() * 100)
        return Measures(information, structure, regions, folds, (low, high), self._detail(field, where))

    def _detail(self, field: Tensor, where: Tensor) -> float | None:
        if self.detail is None or not where.any():
            return None
        shape = self.detail.shape[1:]
        moved = warp(self.detail[None, :1], resize_ddf(field, shape))
        apart = (mind(moved) - mind(self.detail[None, 1:])).abs().mean(dim=1)[0]
        return float(apart[F.interpolate(where[None, None].float(), shape)[0, 0] > 0].mean())

    def seen(self, field: Tensor) -> Tensor:
        """Voxels of the referee's grid that both images show under a field and neither excludes."""
        moved = warp(self.looks[None, :1], resize_ddf(field, self.shape), padding="zeros")[0, 0]
        return (moved > 0.999) & (self.looks[1] > 0)

    def judge(
        self, stage: str, before: Tensor | None, after: Tensor, masks: tuple[Tensor, Tensor] | None = None
    ) -> Verdict:
        """Compares the field of a stage with the one before it.

        Args:
            stage: its name, for the sentences, e.g. "the dense field".
            before: (1, n, *shape) voxels, or None for the initial alignment alone.
            after: same shape.
            masks: moving and fixed, K masks (*shape) uint8 each: coverage of the matched regions.
        """
        after = after.detach().to(self.moving)
        before = torch.zeros_like(after) if before is None else before.detach().to(after)
        where = self.seen(before) & self.seen(after)  # the same voxels for both, whatever each moves out of view
        if masks is not None and len(masks[0]):  # full resolution would take longer than the dense field
            masks = tuple(torch.cat([self._small(mask[None].float()) for mask in side]) for side in masks)
        old, new = (self.measure(field, where, masks) for field in (before, after))
        lost = _loss(old.information, new.information), _loss(1 - old.structure, 1 - new.structure)
        numbers = (
            f"shared information {old.information:.3f} before and {new.information:.3f} after, "
            f"difference of structure {old.structure:.3f} and {new.structure:.3f}"
        )
        # A field of regions alone moves still tissue a little, which costs both measures, and aligns the regions.
        gain = 0.0 if new.regions is None else new.regions - old.regions
        if min(lost) > WORSE and gain < GAIN:
            sentence = f"{stage} was discarded, because the images agree less with it than without it ({numbers})."
            return Verdict(False, [sentence[0].upper() + sentence[1:]], old, new)
        if old.detail is not None and _loss(1 - old.detail, 1 - new.detail) > TOLERANCE:
            sentence = (
                f"{stage} was discarded, because details that it was not optimised for agree less with it than without "
                f"it (difference of structure {old.detail:.3f} before and {new.detail:.3f} after)."
            )
            return Verdict(False, [sentence[0].upper() + sentence[1:]], old, new)
        notes = []
        if min(lost) > TOLERANCE or max(lost) > CLEAR:
            notes.append(f"it is unclear whether {stage} improves the alignment of the images ({numbers}).")
        if gain < -0.02:
            notes.append(f"{stage} lowers the Dice of the matched regions from {old.regions:.2f} to {new.regions:.2f}.")
        if new.folds_percent > FOLDS:
            notes.append(f"{stage} folds in {new.folds_percent:.1f} % of the image.")
        if new.volumes[0] < VOLUMES[0] or new.volumes[1] > VOLUMES[1]:
            notes.append(
                f"{stage} changes volumes {max(new.volumes[0], 0):.2f} to {new.volumes[1]:.1f} times; "
                f"{VOLUMES[0]:g} to {VOLUMES[1]:g} is plausible."
            )
        return Verdict(True, [s[0].upper() + s[1:] for s in notes], old, new)


def keep_better(result: Registration, referee: Referee | None, stage: str, before: Tensor | None = None) -> bool:
    """Restores the field before a stage if the stage made the result worse; records doubts and measures.

    Args:
        result: with the field of the stage.
        referee: of the same images; None keeps every field.
        stage: its name, e.g. "the dense field".
        before: the field before the stage, (1, n, *shape) voxels; None for the initial alignment alone.

    Returns:
        whether the field of the stage was kept.
    """
    if referee is None:
        return True
    verdict = referee.judge(stage, before, result.ddf, (result.moving_masks, result.fixed_masks))
    result.details.setdefault("checks", {})[stage] = verdict.record()
    result.doubts += verdict.doubts
    if not verdict.kept:
        result.discarded = before is None
        result.ddf = torch.zeros_like(result.ddf) if before is None else before
    return verdict.kept


def overlap(ddf: Tensor, masks: tuple[Tensor, Tensor] | None) -> float | None:
    """Mean soft Dice of matched regions under a field; None without regions.

    Where both masks of a pair lie in the same slice, motion across the slices is left out: a mask of one slice says
    nothing about it, and its overlap would fall with every such motion, even the true one.

    Args:
        ddf: (1, n, *shape) voxels.
        masks: moving and fixed (K, *shape) coverage.
    """
    if masks is None or not len(masks[0]):
        return None
    within = {None: ddf}
    scores = []
    for moving, fixed in zip(*masks):
        axis = common_slice(moving, fixed)
        if axis not in within:
            within[axis] = ddf.clone()
            within[axis][:, axis] = 0
        a = warp(moving[None, None].to(ddf), within[axis], padding="zeros")[0, 0]
        b = fixed.to(ddf)
        scores.append(float(2 * torch.minimum(a, b).sum() / (a.sum() + b.sum()).clamp_min(1e-6)))
    return sum(scores) / len(scores)


def common_slice(moving: Tensor, fixed: Tensor) -> int | None:
    """The axis across the only slice of a volume (X, Y, Z) that two masks touch; None if they touch several."""
    touched = (moving > 0) | (fixed > 0)
    for axis in range(touched.ndim) if touched.ndim == 3 else ():
        if int(touched.movedim(axis, 0).flatten(1).any(dim=1).sum()) == 1:
            return axis
    return None


def _loss(before: float, after: float) -> float:
    """Relative loss of a measure where higher is better."""
    return (before - after) / max(before, 1e-6)
