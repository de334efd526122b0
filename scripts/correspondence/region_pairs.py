# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Exact region pairs: every region whole on the grid of its image, even where regions overlap or are nested."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..common.errors import InputError
from ..common.staging import complete_result
from ..data.segmentations import Part, Segmentation, pack_parts, read_segmentation
from ..spatial.geometry import Geometry, apply_affine, corners, resample
from ..spatial.transform_files import RECORD_NAME as RECORD
from .region_masks import RegionMasks

FILES = {"moving": "moving_rois.seg.nrrd", "fixed": "fixed_rois.seg.nrrd"}


@dataclass(frozen=True, eq=False)
class RegionPairs:
    """The K region pairs of a result, best first.

    Attributes:
        names: of the pairs, e.g. "pair 3 (0.94)".
        scores: of the pairs, in [0, 1].
        moving: the regions of the moving image; ``moving.mask(k)`` is (*shape) bool.
        fixed: those of the fixed image; region k corresponds to moving region k.
    """

    names: tuple[str, ...]
    scores: tuple[float, ...]
    moving: Segmentation
    fixed: Segmentation

    def __len__(self) -> int:
        return len(self.names)


def read_region_pairs(folder: str | Path) -> RegionPairs:
    """Reads the exact region pairs of a result folder; :class:`InputError` if it has none or they do not fit."""
    place = complete_result(folder, RECORD)
    if place is None:
        raise InputError(f"{folder} contains no complete result of a registration; give the folder of one.")
    if not all((place / name).is_file() for name in FILES.values()):
        raise InputError(f"{folder} contains no region pairs ({', '.join(FILES.values())}); register the pair again.")
    try:
        pairs = json.loads((place / RECORD).read_text(encoding="utf-8"))["pairs"]
        scores = tuple(float(p["score"]) for p in pairs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place / RECORD} is damaged; register the pair again.") from error
    moving, fixed = (read_segmentation(place / name) for name in FILES.values())
    if not len(scores) == len(moving.segments) == len(fixed.segments):
        raise InputError(f"The region files of {folder} do not belong to its {RECORD}; register the pair again.")
    return RegionPairs(tuple(s.name for s in fixed.segments), scores, moving, fixed)


def pair_names(scores: Tensor) -> list[str]:
    """Name of each pair: its number and its score."""
    return [f"pair {k + 1} ({score:.2f})" for k, score in enumerate(scores.tolist())]


def segment(
    masks: Sequence[Tensor], names: list[str], working: Geometry, target: Geometry, transform: NDArray
) -> Segmentation:
    """Regions as a segmentation on the grid of an image; the arguments are those of :func:`native_masks`."""
    return pack_parts(native_parts(masks, working, target, transform), names, target)


def native_masks(masks: Sequence[Tensor], working: Geometry, target: Geometry, transform: NDArray) -> Iterator[NDArray]:
    """Regions on the grid of an image, one by one: (*target.shape) bool.

    A voxel belongs to a region that covers at least half of it.

    Args:
        masks: K masks (*working.shape) uint8, coverage 0..255.
        working: their grid.
        target: grid of the image.
        transform: (4, 4) target world to working world, RAS mm.
    """
    for box, part in native_parts(masks, working, target, transform):
        found = np.zeros(target.shape, bool)
        found[box] = part
        yield found


def native_parts(masks: Sequence[Tensor], working: Geometry, target: Geometry, transform: NDArray) -> Iterator[Part]:
    """The boxes of the target grid that regions can reach, and the regions inside them; see :func:`native_masks`."""
    to_target = np.linalg.inv(target.affine) @ np.linalg.inv(transform) @ working.affine
    same = target.shape == working.shape and np.allclose(to_target, np.eye(4), rtol=0, atol=1e-6)
    for box, part in RegionMasks.of(masks).parts:
        if not same and part.numel():
            # A mask fades out over one voxel, except where the grid ends.
            room = [(min(1, s.start), min(1, size - s.stop)) for s, size in zip(box, working.shape)]
            part = F.pad(part[None].float(), [r for pair in reversed(room) for r in pair])
            around = tuple(slice(s.start - a, s.stop + b) for s, (a, b) in zip(box, room))
            box = _box_around(around, to_target, target.shape)
            shape = [s.stop - s.start for s in box]
            part = (
                resample(part, working.cropped(around), target.cropped(box), transform, fill=0.0)[0]
                if all(shape)
                else torch.zeros(shape)
            )
        yield box, (part >= 127.5).numpy()


def quick_view(regions: Segmentation) -> NDArray:
    """One label map of all regions, (*shape): region k has the value k + 1; small regions cover large ones."""
    count = len(regions.segments) + 1
    # Plane by plane, because numpy counts and compares in 64 bits.
    sizes = sum(np.bincount(p.ravel(), minlength=count) for layer in regions.layers for p in layer)
    sizes[0] = np.iinfo(np.int64).max
    order = np.lexsort((np.arange(count), -sizes))  # painted in this order
    rank = np.empty(count, np.int32)
    rank[order] = np.arange(count)
    labels = regions.layers[0].copy()
    for layer in regions.layers[1:]:
        for under, over in zip(labels, layer):
            on = over > 0
            under[on] = np.where(rank[over[on]] > rank[under[on]], over[on], under[on])
    return labels


def _box_around(box: tuple[slice, ...], to_target: NDArray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The voxels of the target that a box of the working grid can reach; an empty box if it can reach none."""
    n = len(shape)
    reached = apply_affine(to_target, corners([(s.start - 1.0, s.stop) for s in box]))[:, :n]
    low, high = np.floor(reached.min(axis=0)).astype(int), np.ceil(reached.max(axis=0)).astype(int) + 1
    return tuple(slice(*np.clip((a, b), 0, s).tolist()) for a, b, s in zip(low, high, shape))
