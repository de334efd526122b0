# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Random transforms of a training pair that MONAI lacks: of each image on its own, and masks with errors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable, Transform, generate_spatial_bounding_box
from torch import Tensor
from torch.nn import functional as F

from ...spatial.warp import warp


class RandPairIntensity(Randomizable, Transform):
    """Random gamma, gain, shading and noise, independent for the two images of "image" (2, *shape).

    Args:
        gamma: largest absolute logarithm of the exponent.
        gain: largest change of the brightness.
        noise: largest standard deviation of the noise.
    """

    def __init__(self, gamma: float = 0.3, gain: float = 0.15, noise: float = 0.03) -> None:
        self.gamma, self.gain, self.noise = gamma, gain, noise

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        changed = []
        for image in torch.as_tensor(data["image"]):
            exponent = float(np.exp(self.R.uniform(-self.gamma, self.gamma)))
            corners = torch.as_tensor(self.R.uniform(-self.gain, self.gain, (1, 1, *[2] * image.ndim)))
            shading = _resize(corners.float(), image.shape)[0, 0]
            noise = torch.as_tensor(self.R.standard_normal(tuple(image.shape)), dtype=torch.float32)
            image = image.clamp(0, 1) ** exponent * (1 + shading) + noise * self.R.uniform(0, self.noise)
            changed.append(image.clamp(0, 1))
        return {**data, "image": torch.stack(changed)}


class RandMaskErrors(Randomizable, Transform):
    """Gives the input masks errors like those of a segmentation network; the targets are unchanged.

    A network trained without it relies on the masks alone and fails if they are wrong or missing.

    Args:
        no_masks: chance that both masks are empty.
        drop: chance that a structure is missing in an image.
        shift: largest displacement of a contour in voxels, a smooth random field.
        lose_slice: chance that a slice along the last axis has no mask.

    Changes "masks" (2, *shape), moving and fixed independently.
    """

    def __init__(self, no_masks: float = 0.2, drop: float = 0.05, shift: float = 3.0, lose_slice: float = 0.03) -> None:
        self.no_masks, self.drop, self.shift, self.lose_slice = no_masks, drop, shift, lose_slice

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        masks = torch.as_tensor(data["masks"])
        if self.R.random() < self.no_masks:
            return {**data, "masks": torch.zeros_like(masks)}
        return {**data, "masks": torch.stack([self._spoil(m.clone()) for m in masks])}

    def _spoil(self, mask: Tensor) -> Tensor:
        n = mask.ndim
        for value in range(1, int(mask.max()) + 1):
            if self.R.random() < self.drop:
                mask[mask == value] = 0
        if n == 3:
            mask[:, :, torch.as_tensor(self.R.random(mask.shape[-1]) < self.lose_slice)] = 0
        # Control points about 16 voxels apart; no shift along the last axis, where a voxel may be a centimetre.
        coarse = [max(2, s // 16) if a < 2 else 2 for a, s in enumerate(mask.shape)]
        field = _smooth_field(self.R, 1.0, coarse, mask.shape)
        field[:, 2:] = 0
        return warp(mask[None, None], field * self.R.uniform(0, self.shift), mode="nearest")[0, 0]


class RandSwap(Randomizable, Transform):
    """Swaps the moving and the fixed image with their masks and labels, with the probability ``prob``."""

    def __init__(self, prob: float = 0.25) -> None:
        self.prob = prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if self.R.random() >= self.prob:
            return dict(data)
        return {**data, **{k: data[k].flip(0) for k in ("image", "masks", "targets", "labels")}}


class RandMovingWarp(Randomizable, Transform):
    """Deforms the moving image with its masks and labels, so that a pair never asks for the same field twice.

    A network sees few pairs of subjects many times. Without this it learns their fields by heart.

    Args:
        prob: chance that a pair is changed.
        bend: largest displacement of control points about 16 voxels apart, in the shortest voxel side.
        shift: the same of the corners of the image: shifts, shears and scales.
    """

    def __init__(self, prob: float = 0.0, bend: float = 3.0, shift: float = 4.0) -> None:
        self.prob, self.bend, self.shift = prob, bend, shift

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if self.R.random() >= self.prob:
            return dict(data)
        shape = tuple(data["image"].shape[1:])
        ddf = _smooth_field(self.R, self.shift, [2] * len(shape), shape)
        ddf += _smooth_field(self.R, self.bend, [max(2, s // 16) for s in shape], shape)
        spacing = torch.as_tensor(data["spacing"])
        ddf *= (spacing.min() / spacing).view(1, -1, *[1] * len(shape))

        def moved(key: str, mode: str, padding: str) -> Tensor:
            moving, fixed = torch.as_tensor(data[key]).float()
            return torch.stack([warp(moving[None, None], ddf, mode, padding)[0, 0], fixed])

        maps = {key: moved(key, "nearest", "zeros") for key in ("masks", "targets", "labels")}
        return {**data, "image": moved("image", "bilinear", "border"), **maps}


def _smooth_field(random: np.random.RandomState, size: float, points: Sequence[int], shape: Sequence[int]) -> Tensor:
    """A field (1, n, *shape) between random values of at most ``size`` at a coarse grid of ``points``."""
    values = random.uniform(-size, size, (1, len(shape), *points))
    return _resize(torch.as_tensor(values, dtype=torch.float32), shape)


def _resize(x: Tensor, shape) -> Tensor:
    return F.interpolate(x, tuple(shape), mode="bilinear" if len(shape) == 2 else "trilinear", align_corners=True)


class CropAroundMasks(Transform):
    """Crops a pair to the box of the structures in both images, enlarged by a margin. No structure is cut.

    ``margin_mm`` is added on each side; None keeps whole images. ``keys`` are tensors (2, *shape) of the output of
    :class:`scripts.data.structures.PairTensors`. A pair without targets is not cropped.
    """

    def __init__(
        self, margin_mm: float | None = None, keys: tuple[str, ...] = ("image", "masks", "targets", "labels")
    ) -> None:
        self.margin_mm, self.keys = margin_mm, keys

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        inside = torch.as_tensor(data["targets"]).amax(dim=0) > 0
        if self.margin_mm is None or not inside.any():
            return dict(data)
        margin = (self.margin_mm / torch.as_tensor(data["spacing"])).ceil().long().tolist()
        low, high = generate_spatial_bounding_box(inside[None], margin=margin, allow_smaller=True)
        box = (slice(None), *(slice(a, b) for a, b in zip(low, high)))
        # A copy: a view would keep the whole image in the cache.
        return {**data, **{key: data[key][box].clone() for key in self.keys if key in data}}
