# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A prompt in one image of a pair, brought to the working grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.transforms import Transform
from numpy.typing import NDArray
from torch import Tensor

from ..common.errors import InputError
from ..spatial.geometry import LPS, apply_affine, contains, resample
from .pair import Pair
from .reader import Volume, check_grid, read_volume

SOURCES = ("moving", "fixed")
FRAMES = ("ras", "lps", "voxel")


@dataclass(frozen=True, eq=False)
class WorkingPrompt:
    """A prompt on the working grid.

    Attributes:
        source: the image it belongs to, "moving" or "fixed".
        points: (N, n) voxels of the working grid.
        labels: (N,) 1 inside the region, 0 outside.
        box: (2, n) voxels, two opposite corners, or None.
        mask: (*working.shape) bool, or None.
    """

    source: str
    points: Tensor
    labels: Tensor
    box: Tensor | None
    mask: Tensor | None

    @property
    def only_mask(self) -> bool:
        """Whether there is only a mask; it is then the region itself, not a hint for it."""
        return self.mask is not None and not len(self.points) and self.box is None


class PlacePrompt(Transform):
    """Adds "prompt", a :class:`WorkingPrompt`, to the output of :class:`scripts.data.pair.LoadPair`.

    Args:
        source: the image that the prompt belongs to.
        points: one or more points of 2 or 3 numbers.
        labels: 1 inside, 0 outside; all inside if None.
        box: two opposite corners.
        mask: path of a label map on the grid of the image; every voxel except 0 belongs to the region.
        frame: of points and box: "ras" or "lps" in mm, or "voxel" of the source image (column, row for pictures).

    Raises:
        InputError: no prompt, an unknown word, numbers of another shape, or a place outside the image.
    """

    def __init__(
        self,
        source: str = "moving",
        points: Sequence | None = None,
        labels: Sequence[int] | None = None,
        box: Sequence | None = None,
        mask: str | None = None,
        frame: str = "ras",
    ) -> None:
        if source not in SOURCES:
            raise InputError(f"prompt_image must be moving or fixed, got {source!r}.")
        if frame not in FRAMES:
            raise InputError(f"points_frame must be one of {', '.join(FRAMES)}, got {frame!r}.")
        if not points and not box and not mask:
            raise InputError("A prompt is needed: --points, --box or --mask.")
        self.source, self.mask, self.frame = source, mask, frame
        self.points = _numbers(points, "points") if points else np.zeros((0, 3))
        self.box = _numbers(box, "box") if box else None
        if self.box is not None and len(self.box) != 2:
            raise InputError(f"box needs two opposite corners, got {box}.")
        self.labels = np.ones(len(self.points)) if labels is None else np.asarray(labels, float).ravel()
        if len(self.labels) != len(self.points) or not set(self.labels) <= {0.0, 1.0}:
            raise InputError(f"labels must be 0 or 1, one for each of {len(self.points)} points, got {labels}.")
        if len(self.points) and not (self.labels == 1).any():
            raise InputError("At least one point must lie inside the region (label 1).")

    def __call__(self, data: Mapping) -> dict:
        pair: Pair = data["pair"]
        mask = None
        if self.mask:
            label = read_volume(self.mask, label=True)
            image: Volume = getattr(pair, self.source)
            check_grid(label, image)
            transform = pair.transform if self.source == "moving" else None
            values = torch.from_numpy((label.array[:1] != 0).astype(np.float32))
            mask = resample(values, image.geometry, pair.working, transform, fill=0.0)[0] >= 0.5
            if not mask.any():
                raise InputError(f"{self.mask} has no voxel inside the fixed image, so no region is marked.")
        prompt = WorkingPrompt(
            self.source,
            self._place(self.points, pair),
            torch.as_tensor(self.labels, dtype=torch.float32),
            None if self.box is None else self._place(self.box, pair),
            mask,
        )
        return {**data, "prompt": prompt}

    def _place(self, points: NDArray, pair: Pair) -> Tensor:
        """Voxels (N, n) of the working grid."""
        if self.frame == "voxel":
            points = apply_affine(getattr(pair, self.source).geometry.affine, points)
        elif self.frame == "lps":
            points = apply_affine(LPS, points)
        if self.source == "moving":
            points = apply_affine(np.linalg.inv(pair.transform), points)
        outside = ~contains(pair.working, points)
        if outside.any():
            place = points[outside][0].round(1).tolist()
            raise InputError(f"The prompt at {place} mm RAS lies outside the common image; check --points_frame.")
        index = apply_affine(np.linalg.inv(pair.working.affine), points)[:, : pair.working.ndim]
        return torch.as_tensor(index, dtype=torch.float32)


def _numbers(values: Sequence, name: str) -> NDArray:
    """(N, 3) from one or more points of 2 or 3 numbers."""
    try:
        array = np.atleast_2d(np.asarray(values, float))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be lists of 2 or 3 numbers, got {values}.") from error
    if array.ndim != 2 or array.shape[1] not in (2, 3) or not np.isfinite(array).all():
        raise InputError(f"{name} must be lists of 2 or 3 numbers, got {values}.")
    return np.pad(array, ((0, 0), (0, 3 - array.shape[1])))
