# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A moving and a fixed image, checked, windowed, initially aligned, and brought to one working grid."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..common.errors import InputError
from ..spatial.affine import align
from ..spatial.geometry import Geometry, extent_text, overlap, resample, same_grid, told_apart
from ..spatial.landmarks import contains, read_landmarks
from ..spatial.orientation import ddf_to_grid, oriented
from .intensity import apply_window
from .reader import Volume, check_intensities, read_volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Pair:
    """Everything known of one pair.

    Attributes:
        moving: the moving image as read; intensities float32.
        fixed: the fixed image as read.
        transform: (4, 4) initial alignment, fixed world to moving world, RAS mm.
        working: grid on which the registration runs, the box of the fixed image with at most ``max_size`` voxels a
            side; its axes may have another order and direction.
        moving_label: labels on the moving grid, or None.
        fixed_label: labels on the fixed grid, or None.
        moving_landmarks: (L, 3) RAS mm, or None.
        fixed_landmarks: (L, 3) RAS mm, or None.
        moving_mask: masks of structures that a method may use, on the moving grid, or None; labels are for measuring.
        fixed_mask: likewise on the fixed grid.
    """

    moving: Volume
    fixed: Volume
    transform: NDArray
    working: Geometry
    moving_label: Volume | None = None
    fixed_label: Volume | None = None
    moving_landmarks: NDArray | None = None
    fixed_landmarks: NDArray | None = None
    moving_mask: Volume | None = None
    fixed_mask: Volume | None = None

    def on_fixed_grid(self, ddf: Tensor | None) -> Tensor | None:
        """A field (1, n, *working.shape) in voxels of the working grid as one of the fixed grid; None stays None."""
        return None if ddf is None else ddf_to_grid(ddf.detach().cpu().float(), self.working, self.fixed.geometry)


class LoadPair(Transform):
    """Reads a pair and puts both images on the working grid.

    Args:
        window: intensity window of both images, see :func:`scripts.data.intensity.apply_window`.
        init: initial alignment: "none", "moments", "affine", or a file, see :func:`scripts.spatial.affine.align`; the
            pair's own "init" comes first.
        max_size: most voxels along any axis of the working grid.
        header: see :func:`scripts.data.reader.read_volume`.
        fill_nan: replaces NaN and infinite voxels; None refuses them.
        points_frame: "ras", "lps" or "voxel".
        affine_size: most voxels along any axis of 3-D images of which an affine transform is found. More take longer
            and find the same (docs/reproduce.md).
        reorient: gives the working grid the axes of :func:`scripts.spatial.orientation.oriented`, for networks, which
            know patients one way round; else those of the fixed image.

    Input: a dict with paths "moving" and "fixed", and where wanted "moving_frame", "fixed_frame", "moving_label",
    "fixed_label", "moving_mask", "fixed_mask", "moving_landmarks", "fixed_landmarks", "init"; empty values count as
    absent.

    Output: the same dict with "image", a MetaTensor (2C, *working.shape) in [0, 1], moving channels first, with the
    affine of the working grid; and "pair", a :class:`Pair`.

    Raises:
        InputError: whatever cannot be registered, in one sentence.
    """

    def __init__(
        self,
        window: str = "auto",
        init: str = "none",
        max_size: int = 256,
        header: str = "auto",
        fill_nan: float | None = None,
        points_frame: str = "ras",
        affine_size: int = 96,
        reorient: bool = False,
    ) -> None:
        if type(max_size) is not int or max_size < 2:
            raise InputError(f"max_size must be a whole number of voxels, at least 2, got {max_size!r}.")
        if fill_nan is not None and not isinstance(fill_nan, (int, float)):
            raise InputError(f"fill_nan must be a number, got {fill_nan!r}.")
        self.window, self.init, self.max_size, self.affine_size = window, init, max_size, affine_size
        self.header, self.fill_nan, self.points_frame = header, fill_nan, points_frame
        self.reorient = reorient

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        volumes = {}
        for role in ("moving", "fixed"):
            if not data.get(role):
                raise InputError(f"No {role} image was given; both --moving and --fixed are needed.")
            volume = read_volume(data[role], frame=data.get(f"{role}_frame"), header=self.header)
            volumes[role] = replace(volume, array=check_intensities(volume, self.fill_nan))
        moving, fixed = volumes["moving"], volumes["fixed"]
        if moving.geometry.ndim != fixed.geometry.ndim:
            raise InputError(
                f"{moving.path} is {moving.geometry.ndim}-D and {fixed.path} is {fixed.geometry.ndim}-D; "
                "both must have the same number of dimensions."
            )
        working = working_grid(fixed.geometry, self.max_size)
        if self.reorient:
            working = oriented(working)
        try:
            grey = {role: apply_window(torch.from_numpy(v.array), self.window) for role, v in volumes.items()}
            small = {role: coarsen(grey[role], v.geometry, min(working.spacing)) for role, v in volumes.items()}
            init = str(data.get("init") or self.init or "none")
            start = small
            if init == "affine" and fixed.geometry.ndim == 3:
                spacing = max(np.multiply(fixed.geometry.shape, fixed.geometry.spacing)) / self.affine_size
                start = {role: coarsen(*i, spacing) for role, i in small.items()}
            transform = align(*_grey(*start["fixed"]), *_grey(*start["moving"]), init)
        except ValueError as error:
            raise InputError(str(error)) from error
        if not overlap(fixed.geometry, moving.geometry, transform):
            raise InputError(
                f"The images do not overlap in space: {fixed.path} covers {extent_text(fixed.geometry)} and "
                f"{moving.path} covers {extent_text(moving.geometry)}; try --init moments or check the headers."
            )
        pair = Pair(
            moving=moving,
            fixed=fixed,
            transform=transform,
            working=working,
            moving_label=self._label(data, "moving_label", moving),
            fixed_label=self._label(data, "fixed_label", fixed),
            moving_mask=self._label(data, "moving_mask", moving),
            fixed_mask=self._label(data, "fixed_mask", fixed),
            moving_landmarks=self._landmarks(data, "moving", moving),
            fixed_landmarks=self._landmarks(data, "fixed", fixed),
        )
        stacked = torch.cat(same_channels(*_to_working(small, pair)))
        return {**data, "image": MetaTensor(stacked, affine=torch.as_tensor(working.affine)), "pair": pair}

    def _label(self, data: Mapping, key: str, image: Volume) -> Volume | None:
        path = data.get(key)
        if not path:
            return None
        frame = data.get(f"{key.split('_')[0]}_frame")
        label = read_volume(path, frame=None if frame == "" else frame, header=self.header, single=True)
        if not same_grid(label.geometry, image.geometry):
            own, wanted = told_apart(label.geometry, image.geometry)
            raise InputError(
                f"{path} is on another grid ({own}) than its image {image.path} ({wanted}); resample it first."
            )
        array = np.asarray(label.array[:1])
        rounded = np.rint(array)
        if not np.allclose(array, rounded, atol=1e-3):
            raise InputError(f"{path} holds values that are not whole numbers; a label map is needed.")
        return replace(label, array=rounded.astype(array.dtype if array.dtype.kind in "iu" else np.int32))

    def _landmarks(self, data: Mapping, role: str, image: Volume) -> NDArray | None:
        path = data.get(f"{role}_landmarks")
        if not path:
            return None
        try:
            points = read_landmarks(path, image.geometry, self.points_frame)
        except OSError as error:
            raise InputError(f"{path} cannot be read; give a text file with one landmark a row.") from error
        except ValueError as error:
            raise InputError(str(error)) from error
        outside = int((~contains(image.geometry, points)).sum())
        if outside:
            logger.warning(
                "%d of %d landmarks of %s lie outside %s (%s), where no field displaces them; check --points_frame.",
                outside, len(points), path, image.path, extent_text(image.geometry),
            )  # fmt: skip
        return points


def working_grid(fixed: Geometry, max_size: int) -> Geometry:
    """The fixed grid, coarsened (never refined) so that its longest side has at most ``max_size`` voxels."""
    extents = np.asarray(fixed.shape) * fixed.spacing
    target = max(extents) / max_size
    shape = tuple(
        max(2, round(e / target)) if s < target else n for e, s, n in zip(extents, fixed.spacing, fixed.shape)
    )
    return fixed.resized(shape)


def coarsen(image: Tensor, geometry: Geometry, spacing: float) -> tuple[Tensor, Geometry]:
    """Averages an image (C, *shape) down to about the given voxel size, so that linear sampling does not alias."""
    shape = tuple(
        max(2, round(n * s / spacing)) if s < spacing / 1.5 else n for n, s in zip(geometry.shape, geometry.spacing)
    )
    if shape == geometry.shape:
        return image, geometry
    return F.interpolate(image[None], shape, mode="area")[0], geometry.resized(shape)


def same_channels(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Repeats a grey image to three channels where the other is in colour."""
    channels = max(len(a), len(b))
    return a.expand(channels, *a.shape[1:]), b.expand(channels, *b.shape[1:])


def _grey(image: Tensor, geometry: Geometry) -> tuple[NDArray, Geometry]:
    return image.mean(dim=0).numpy(), geometry


def _to_working(small: dict[str, tuple[Tensor, Geometry]], pair: Pair) -> tuple[Tensor, Tensor]:
    moving, fixed = small["moving"], small["fixed"]
    return (
        resample(*moving, pair.working, pair.transform, fill=0.0),
        resample(*fixed, pair.working),
    )


def one_pair(samples: list[dict]) -> dict:
    """Collates a batch of exactly one pair: the image gets a batch axis, everything else stays as it is."""
    sample = samples[0]
    return {**sample, "image": sample["image"][None]}
