# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A moving and a fixed image, checked, windowed, initially aligned, and brought to one working grid."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..common.errors import InputError
from ..spatial.affine import Start, align
from ..spatial.files import MAX_GB, size_limit
from ..spatial.geometry import Geometry, coarser, contains, extent_text, overlap, resample, resample_map
from ..spatial.landmark_files import read_landmarks
from ..spatial.likeness import Scan
from ..spatial.orientation import ddf_to_grid, oriented
from .dicom import is_dicom
from .exclusion import filled, hidden_on, hide_frames, weights_on
from .intensity import apply_window
from .reader import Volume, check_grid, check_intensities, read_volume

logger = logging.getLogger(__name__)

DETAIL = 2  # a picture is checked on a grid this many times as fine as the working grid


@dataclass(frozen=True, eq=False)
class Pair:
    """One pair of images with everything that belongs to it.

    Attributes:
        moving: the moving image as read; intensities float32.
        fixed: the fixed image as read.
        transform: (4, 4) initial alignment, fixed world to moving world, RAS mm.
        working: grid of the registration, the box of the fixed image with at most ``max_size`` voxels per side; its
            axes may have another order and direction.
        moving_label: labels on the moving grid, only for measuring, or None.
        fixed_label: labels on the fixed grid, or None.
        moving_landmarks: (L, 3) RAS mm, or None.
        fixed_landmarks: (L, 3) RAS mm, or None.
        moving_mask: masks of structures that a method may use, on the moving grid, or None.
        fixed_mask: the same on the fixed grid.
        moving_exclude: on the grid of the moving image, not 0 in voxels to ignore, or None.
        fixed_exclude: the same of the fixed image.
        start: how the initial alignment was found, and any doubts about it.
        warnings: sentences about oddities of the inputs; already logged.
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
    moving_exclude: Volume | None = None
    fixed_exclude: Volume | None = None
    start: Start = field(default_factory=lambda: Start(np.eye(4), "none"))
    warnings: tuple[str, ...] = ()

    def seen(self, role: str) -> Volume:
        """The "moving" or "fixed" image with its excluded voxels filled in, as all methods see it."""
        return filled(getattr(self, role), getattr(self, f"{role}_exclude"))

    def on_fixed_grid(self, ddf: Tensor | None) -> Tensor | None:
        """A field (1, n, *working.shape) in working voxels as one on the fixed grid in its voxels; None stays None."""
        return None if ddf is None else ddf_to_grid(ddf.detach().cpu().float(), self.working, self.fixed.geometry)


@dataclass(eq=False)
class LoadPair(Transform):
    """Reads a pair and brings both images to the working grid.

    Args:
        window: intensity window of both images, see :func:`scripts.data.intensity.apply_window`.
        init: initial alignment: "none", "moments", "affine", or a file, see :func:`scripts.spatial.affine.align`. The
            pair's own "init" takes precedence.
        max_size: most voxels along any axis of the working grid.
        header: see :func:`scripts.data.reader.read_volume`.
        fill_nan: replaces NaN and infinite voxels; None refuses them.
        points_frame: "ras", "lps" or "voxel".
        affine_size: most voxels along any axis of the 3-D images that the affine alignment compares. More take longer
            and find the same (docs/reproduce.md).
        reorient: gives the working grid the axes of :func:`scripts.spatial.orientation.oriented`, which a network
            expects; otherwise it keeps those of the fixed image.
        max_image_gb: largest image, see :func:`scripts.spatial.files.size_limit`.
        detail: also gives pictures on a finer grid, so that a result can be checked on what no stage has seen.

    Input: a dict with "moving" and "fixed", and optionally "moving_frame", "fixed_frame", "moving_label",
    "fixed_label", "moving_mask", "fixed_mask", "moving_exclude", "fixed_exclude", "moving_landmarks",
    "fixed_landmarks", "init". Images, labels and masks are paths, or a :class:`scripts.data.reader.Volume` each. Empty
    values count as absent.

    Output: the same dict with "image", a MetaTensor (2C, *working.shape) in [0, 1], moving channels first, with the
    affine of the working grid; "pair", a :class:`Pair`; where voxels are excluded or not shown, "weight"
    (2, *working.shape), moving and fixed, 0 in these voxels and 1 elsewhere; and with ``detail``, for pictures of which
    the working grid does not show every pixel, "detail" (2, *finer), moving and fixed in grey.

    Raises:
        InputError: an input that cannot be used, or images that do not overlap.
    """

    window: str = "auto"
    init: str = "none"
    max_size: int = 256
    header: str = "auto"
    fill_nan: float | None = None
    points_frame: str = "ras"
    affine_size: int = 96
    reorient: bool = False
    max_image_gb: float = MAX_GB
    detail: bool = False

    def __post_init__(self) -> None:
        for name, size in (("max_size", self.max_size), ("affine_size", self.affine_size)):
            if type(size) is not int or size < 2:
                raise InputError(f"{name} must be a whole number of voxels, at least 2, got {size!r}.")
        if isinstance(self.fill_nan, bool) or not isinstance(self.fill_nan, (int, float, type(None))):
            raise InputError(f"fill_nan must be a number, got {self.fill_nan!r}.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        with size_limit(self.max_image_gb):
            return self._load(data)

    def _load(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for role in ("moving", "fixed"):
            if not data.get(role):
                raise InputError(f"No {role} image was given; both --moving and --fixed are needed.")
        moving, fixed = (self._image(data, role) for role in ("moving", "fixed"))
        if moving.geometry.ndim != fixed.geometry.ndim:
            raise InputError(
                f"{moving.path} is {moving.geometry.ndim}-D and {fixed.path} is {fixed.geometry.ndim}-D; "
                "both must have the same number of dimensions."
            )
        notes = [*moving.warnings, *fixed.warnings]
        images = {"moving": moving, "fixed": fixed}
        marks = {f"{role}_landmarks": self._landmarks(data, role, image, notes) for role, image in images.items()}
        counts = [len(points) for points in marks.values() if points is not None]
        if len(set(counts)) > 1:
            raise InputError(
                f"{data['moving_landmarks']} has {counts[0]} landmarks and {data['fixed_landmarks']} has {counts[1]}; "
                "landmark k of one file must belong to landmark k of the other."
            )
        labels = {
            f"{role}_{kind}": self._label(data, f"{role}_{kind}", image, notes)
            for kind in ("label", "mask", "exclude")
            for role, image in images.items()
        }
        working = working_grid(fixed.geometry, self.max_size)
        working = oriented(working) if self.reorient else working
        try:
            seen = [filled(image, labels[f"{role}_exclude"]) for role, image in images.items()]
            side = min(working.spacing)
            small = [coarsen(apply_window(torch.from_numpy(v.array), self.window), v.geometry, side) for v in seen]
            start = self._align(small, str(data.get("init") or self.init or "none"), labels)
        except ValueError as error:
            raise InputError(str(error)) from error
        for sentence in start.doubts:
            logger.warning(sentence)
        notes.extend(start.doubts)
        transform = start.matrix
        if not overlap(fixed.geometry, moving.geometry, transform):
            raise InputError(
                f"The images do not overlap in space: {fixed.path} covers {extent_text(fixed.geometry)} and "
                f"{moving.path} covers {extent_text(moving.geometry)}; try --init moments or check the headers."
            )
        pair = Pair(
            moving, fixed, transform, working, **labels, **marks, start=start, warnings=tuple(dict.fromkeys(notes))
        )
        on_grid = resample(*small[0], working, transform, fill=0.0), resample(*small[1], working)
        channels = max(map(len, on_grid))  # a grey image beside one in colour is repeated
        stacked = torch.cat([x.expand(channels, *x.shape[1:]) for x in on_grid])
        shown = ((moving.geometry, pair.moving_exclude), (fixed.geometry, pair.fixed_exclude))
        weight = weights_on(shown, working, transform)
        found = {"image": MetaTensor(stacked, affine=torch.as_tensor(working.affine)), "pair": pair}
        if working.ndim == 2 and channels == 3:
            weight = hide_frames(stacked, weight)
        more = {"weight": weight, "detail": self._detail(moving, fixed, transform) if self.detail else None}
        return {**data, **found, **{key: value for key, value in more.items() if value is not None}}

    def _detail(self, moving: Volume, fixed: Volume, transform: NDArray) -> Tensor | None:
        """Both images in grey on a grid twice as fine as the working grid, if they are pictures with as much detail."""
        fine = working_grid(fixed.geometry, DETAIL * self.max_size)
        if fine.ndim == 3 or max(fine.shape) < DETAIL * self.max_size:
            return None
        grey = [apply_window(torch.from_numpy(v.array), self.window).mean(dim=0, keepdim=True) for v in (moving, fixed)]
        small = [coarsen(g, v.geometry, min(fine.spacing)) for g, v in zip(grey, (moving, fixed))]
        return torch.cat([resample(*small[0], fine, transform, fill=0.0), resample(*small[1], fine)])

    def _image(self, data: Mapping, role: str) -> Volume:
        volume = self._volume(data, role)
        return replace(volume, array=check_intensities(volume, self.fill_nan))

    def _volume(self, data: Mapping, key: str, label: bool = False) -> Volume:
        """The volume under a key, read if it is a path."""
        if isinstance(data[key], Volume):
            return data[key]
        frame = data.get(f"{key.split('_')[0]}_frame")
        return read_volume(data[key], frame=None if frame == "" else frame, header=self.header, label=label)

    def _align(self, small: list[tuple[Tensor, Geometry]], init: str, labels: Mapping[str, Volume | None]) -> Start:
        """Initial alignment of the windowed (moving, fixed) images."""
        if init == "affine" and small[1][1].ndim == 3:
            spacing = max(np.multiply(small[1][1].shape, small[1][1].spacing)) / self.affine_size
            small = [coarsen(*image, spacing) for image in small]
        scans = []
        for role, (image, grid) in zip(("moving", "fixed"), small):
            mask = labels[f"{role}_mask"]
            regions = None if mask is None else resample_map(mask.array[0], mask.geometry, grid)
            scans.append(Scan(image.mean(dim=0).numpy(), grid, hidden_on(labels[f"{role}_exclude"], grid), regions))
        return align(scans[1], scans[0], init)

    def _label(self, data: Mapping, key: str, image: Volume, notes: list[str]) -> Volume | None:
        if not data.get(key):
            return None
        label = self._volume(data, key, label=True)
        dicom = isinstance(data[key], (str, Path)) and is_dicom(Path(data[key]))
        if dicom and label.geometry.ndim == image.geometry.ndim:  # an object lacks the slices without a segment
            array = resample_map(label.array[0], label.geometry, image.geometry)
            label = replace(label, array=array[None], geometry=image.geometry)
        check_grid(label, image)
        notes.extend(label.warnings)
        array = np.asarray(label.array[:1])
        rounded = np.rint(array)
        if not np.allclose(array, rounded, atol=1e-3):
            raise InputError(f"{label.path} contains values that are not whole numbers; a label map is needed.")
        return replace(label, array=rounded.astype(array.dtype if array.dtype.kind in "iu" else np.int32))

    def _landmarks(self, data: Mapping, role: str, image: Volume, notes: list[str]) -> NDArray | None:
        path = data.get(f"{role}_landmarks")
        if not path:
            return None
        points = read_landmarks(path, image.geometry, self.points_frame)
        outside = int((~contains(image.geometry, points)).sum())
        if outside:
            notes.append(
                f"{outside} of {len(points)} landmarks of {path} lie outside {image.path} "
                f"({extent_text(image.geometry)}), where no field displaces them; check --points_frame."
            )
            logger.warning(notes[-1])
        return points


def working_grid(fixed: Geometry, max_size: int) -> Geometry:
    """The fixed grid, coarsened (never refined) so that its longest side has at most ``max_size`` voxels."""
    side = max(np.multiply(fixed.shape, fixed.spacing)) / max_size
    return fixed.resized(coarser(fixed.shape, fixed.spacing, side))


def coarsen(image: Tensor, geometry: Geometry, spacing: float) -> tuple[Tensor, Geometry]:
    """Averages an image (C, *shape) down to about the given voxel size, so that linear sampling does not alias."""
    shape = tuple(
        max(2, round(n * s / spacing)) if s < spacing / 1.5 else n for n, s in zip(geometry.shape, geometry.spacing)
    )
    if shape == geometry.shape:
        return image, geometry
    return F.interpolate(image[None], shape, mode="area")[0], geometry.resized(shape)


def one_pair(samples: list[dict]) -> dict:
    """Collates exactly one pair: images and weight get a batch axis, everything else is unchanged."""
    sample = samples[0]
    return {**sample, **{key: sample[key][None] for key in ("image", "weight", "detail") if key in sample}}
