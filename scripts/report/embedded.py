# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The volumes, regions and field that the viewer of a report embeds, reduced in size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..correspondence.region_pairs import quick_view, segment
from ..correspondence.result import Registration
from ..data.intensity import apply_window
from ..data.pair import Pair, coarsen, working_grid
from ..data.reader import Volume
from ..data.segmentations import Segmentation, pair_colours
from ..metrics.jacobian import jacobian_determinant
from ..metrics.overlap import bounding_box
from ..spatial.geometry import LPS, Geometry, apply_affine, resample, world_displacement
from ..spatial.orientation import ddf_to_grid
from .page import packed

FIELD_VOXELS = 500_000  # of the embedded field; a finer one is coarsened, which costs a smooth field little
DARK = 0.02  # windowed intensity up to which borders are cropped
GRID_LINES = 16  # along the longest side of the deformation grid
ROLES = ("moving", "fixed")
# Colour maps over the values 0 to 255 of a file; "I" are the values at which the colours and opacities are given.
JACOBIAN = {
    "title": "Jacobian",
    "legend": "Jacobian determinant: red below 1, blue above 1, magenta at 0 and below, where the field folds.",
    "R": [255, 178, 247, 33, 5], "G": [0, 24, 247, 102, 48], "B": [208, 43, 247, 172, 97],
    "A": [255, 255, 0, 255, 255], "I": [0, 1, 128, 200, 255],
}  # fmt: skip
CONFIDENCE = {
    "title": "confidence",
    "legend": "Confidence of the field: red at 0, yellow at 0.5, blue at 1.",
    "R": [215, 255, 69], "G": [48, 255, 117], "B": [39, 191, 180], "A": [255, 255, 255], "I": [0, 128, 255],
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Shown:
    """One image as it is embedded.

    Attributes:
        image: (C, *grid.shape) in [0, 1].
        grid: coarse grid over the whole image.
        box: the part of it that is shown.
    """

    image: Tensor
    grid: Geometry
    box: tuple[slice, ...]


def viewer_data(pair: Pair, result: Registration, size: int) -> dict[str, Any]:
    """Everything the viewer needs, ready for JSON.

    Args:
        pair: the images.
        result: the registration.
        size: longest side of the embedded volumes in voxels.

    Returns:
        "volumes" (NIfTI files), "maps", "regions" (exact masks in layers), "pairs", "field" (RAS mm on the fixed grid)
        or None, the initial alignment, "centre" and "reduced" (sentences).
    """
    masks = {role: getattr(result, f"{role}_masks") for role in ROLES}
    to_working = {"moving": np.linalg.inv(pair.transform), "fixed": np.eye(4)}
    shown, regions = {}, {}
    for role in ROLES:
        volume: Volume = getattr(pair, role)
        grid = working_grid(volume.geometry, size)
        image = _small(volume, grid)
        if len(result.matches):
            regions[role] = segment(masks[role], [""] * len(result.matches), pair.working, grid, to_working[role])
        visible = image.amax(dim=0) > DARK
        if role in regions:
            visible |= torch.from_numpy((regions[role].layers > 0).any(axis=0))
        box = bounding_box(visible) if visible.any() else tuple(slice(0, s) for s in grid.shape)
        shown[role] = Shown(image, grid, box)
    fixed, moving = shown["fixed"], shown["moving"]
    before = resample(moving.image, moving.grid, fixed.grid, pair.transform, fill=0.0)
    volumes = {role: _nifti(_bytes(s.image), s) for role, s in shown.items()}
    volumes["before"] = _nifti(_bytes(before), fixed)
    data: dict[str, Any] = {"ndim": fixed.grid.ndim, "maps": {}, "field": None, "regions": None}
    if result.ddf is not None:
        ddf = ddf_to_grid(result.ddf.detach().cpu().float(), pair.working, fixed.grid)
        after = resample(moving.image, moving.grid, fixed.grid, pair.transform, ddf, fill=0.0)
        volumes |= {"after": _nifti(_bytes(after), fixed), "grid": _nifti(_bytes(deformed_grid(ddf)[None]), fixed)}
        data["maps"] = {"jacobian": JACOBIAN}
        maps = {"jacobian": jacobian_determinant(result.ddf.detach().cpu().float()) / 2}
        if result.confidence is not None:
            data["maps"]["confidence"] = CONFIDENCE
            maps["confidence"] = result.confidence[0].detach().cpu().float()
        for name, values in maps.items():
            on_grid = resample(values, pair.working, fixed.grid).clamp(0, 1)
            volumes[name] = _nifti(_bytes(on_grid), fixed)
        data["field"] = embedded_field(result.ddf, pair)
    data["smallest_first"] = {}
    if regions:
        data["regions"] = {role: _layers(regions[role], shown[role]) for role in ROLES}
        for role in ROLES:
            labels = quick_view(regions[role]).astype(np.int32)
            labels[labels > 255] = 0
            volumes[f"regions_{role}"] = _nifti(labels.astype(np.uint8)[None], shown[role])
            sizes = np.bincount(regions[role].layers.ravel(), minlength=len(result.matches) + 1)[1:]
            data["smallest_first"][role] = (np.argsort(sizes, kind="stable") + 1).tolist()
    return data | {
        "volumes": volumes,
        "pairs": _pairs(result, regions),
        "fixed_to_moving": pair.transform.tolist(),
        "moving_to_fixed": np.linalg.inv(pair.transform).tolist(),
        "centre": _world(fixed.grid, [(s.start + s.stop - 1) / 2 for s in fixed.box]),
        "reduced": [_reduced(role, getattr(pair, role), shown[role]) for role in ROLES],
    }


def embedded_field(ddf: Tensor, pair: Pair) -> dict[str, Any]:
    """The displacement from fixed to moving places in RAS mm, the initial alignment included, as 16-bit numbers.

    Args:
        ddf: (1, n, *working.shape) voxels of the working grid.
        pair: the images.

    Returns:
        "data" (component by component, first axis fastest), "scale" (mm of 1, by component), "shape" and "to_voxel"
        (4 x 4, RAS mm to voxels of the field).
    """
    grid = pair.fixed.geometry
    size = max(grid.shape)
    while np.prod(grid.shape) > FIELD_VOXELS:
        size = int(size * 0.9)
        grid = working_grid(pair.fixed.geometry, size)
    ddf = ddf_to_grid(ddf.detach().cpu().float(), pair.working, grid)
    u = world_displacement(ddf[0].numpy(), grid, pair.transform) @ LPS[:3, :3]
    scale = np.abs(u).reshape(-1, 3).max(axis=0) / 32767
    numbers = np.rint(u / np.where(scale > 0, scale, 1)).astype("<i2")
    return {
        "data": packed(b"".join(numbers[..., c].tobytes(order="F") for c in range(3))),
        "scale": scale.tolist(),
        "shape": [*grid.shape, *[1] * (3 - grid.ndim)],
        "to_voxel": np.linalg.inv(grid.affine).tolist(),
    }


def deformed_grid(ddf: Tensor) -> Tensor:
    """The lines of a regular grid in the moving image, moved by the field, (*shape) in [0, 1].

    Args:
        ddf: (1, n, *shape) voxels. Lines are evenly spaced along the axes of more than ``GRID_LINES`` voxels.
    """
    shape = ddf.shape[2:]
    step = max(6, max(shape) // GRID_LINES)
    lines = torch.zeros(shape)
    for axis, length in enumerate(shape):
        if length > GRID_LINES:
            index = torch.arange(length, dtype=torch.float32).view(-1, *[1] * (len(shape) - 1 - axis))
            distance = ((ddf[0, axis] + index + step / 2) % step - step / 2).abs()
            lines = torch.maximum(lines, (1 - distance).clamp_min(0))
    return lines


def _small(volume: Volume, grid: Geometry) -> Tensor:
    """The windowed image on a coarse grid, (C, *grid.shape) in [0, 1]; colours stay."""
    image = torch.from_numpy(np.asarray(volume.array, np.float32))
    image, geometry = coarsen(image, volume.geometry, max(grid.spacing))
    return resample(apply_window(image), geometry, grid).clamp(0, 1)


def _bytes(image: Tensor) -> NDArray:
    return (image * 255).round().to(torch.uint8).numpy()


def _nifti(array: NDArray, shown: Shown) -> str:
    """The shown part of (C, *shape) uint8 as an embedded NIfTI file, in colour if it has three channels."""
    array = array[(slice(None), *shown.box)]
    shape = (*array.shape[1:], *[1] * (3 - shown.grid.ndim))
    affine = shown.grid.affine.copy()
    affine[:3, 3] = _world(shown.grid, [s.start for s in shown.box])
    if len(array) == 3:
        colours = np.ascontiguousarray(np.moveaxis(array, 0, -1)).view([(c, "u1") for c in "RGB"])
        image = nib.Nifti1Image(colours.reshape(shape), affine)
    else:
        image = nib.Nifti1Image(array[0].reshape(shape), affine)
    return packed(image.to_bytes())


def _layers(regions: Segmentation, shown: Shown) -> dict[str, Any]:
    layers = regions.layers[(slice(None), *shown.box)]
    to_voxel = np.linalg.inv(shown.grid.affine)
    to_voxel[: shown.grid.ndim, 3] -= [s.start for s in shown.box]
    raw = b"".join(layer.astype(layer.dtype.newbyteorder("<")).tobytes(order="F") for layer in layers)
    return {
        "data": packed(raw),
        "wide": layers.dtype.itemsize == 2,
        "shape": [*layers.shape[1:], *[1] * (3 - shown.grid.ndim)],
        "layer": [s.layer for s in regions.segments],
        "to_voxel": to_voxel.tolist(),
    }


def _pairs(result: Registration, regions: dict[str, Segmentation]) -> list[dict[str, Any]]:
    """Colour and score of each pair, and the point of each region that is nearest to its centre."""
    pairs = []
    for k, colour in enumerate(pair_colours(len(result.matches))):
        entry: dict[str, Any] = {"rgb": [round(255 * c) for c in colour], "score": float(result.matches.score[k])}
        for role in ROLES:
            inside = np.argwhere(regions[role].mask(k))
            if not len(inside):  # a region smaller than a voxel of the viewer
                inside = np.asarray(regions[role].geometry.shape)[None] / 2
            nearest = np.linalg.norm(inside - inside.mean(axis=0), axis=1).argmin()
            entry[role] = _world(regions[role].geometry, inside[nearest])
        pairs.append(entry)
    return pairs


def _world(grid: Geometry, index: Any) -> list[float]:
    place = np.zeros(3)
    place[: grid.ndim] = index
    return apply_affine(grid.affine, place).tolist()


def _reduced(role: str, volume: Volume, shown: Shown) -> str:
    def text(sizes: Any) -> str:
        return " x ".join(map(str, sizes))

    whole, coarse = volume.geometry.shape, shown.grid.shape
    part = tuple(s.stop - s.start for s in shown.box)
    size = "at full resolution" if coarse == whole else f"with {text(coarse)}"
    crop = "" if part == coarse else f", cropped to {text(part)}"
    return f"The {role} image of {text(whole)} voxels is shown {size}{crop}, in 8 bits per channel."
