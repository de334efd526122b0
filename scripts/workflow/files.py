# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Writes the images, fields and landmarks of a result into a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..correspondence.region_pairs import FILES, pair_names, quick_view, segment
from ..correspondence.result import Registration
from ..data.pair import Pair
from ..data.segmentations import write_segmentation
from ..data.writer import as_stored, save_nifti, save_picture
from ..spatial.chain import Field
from ..spatial.fields import stream_field, write_field
from ..spatial.geometry import resample, resample_map, world_displacement
from ..spatial.inversion import invert_chain
from ..spatial.landmark_files import Landmarks, fixed_to_moving, write_landmark_file

ROLES = ("moving", "fixed")


def write_regions(folder: Path, pair: Pair, result: Registration) -> None:
    """Writes the exact region pairs and their quick view; without pairs, all regions of each image.

    ``moving_rois.seg.nrrd`` and ``fixed_rois.seg.nrrd`` keep every region whole; ``*_rois.nii.gz`` show all of them in
    one label map, where small regions cover large ones. Unpaired regions are numbered independently in each image.
    """
    for role in ROLES:
        volume, regions = getattr(pair, role), getattr(result, role)
        transform = np.linalg.inv(pair.transform) if role == "moving" else np.eye(4)
        if len(result.matches):
            stem, file = f"{role}_rois", FILES[role]
            masks, names = getattr(result, f"{role}_masks"), pair_names(result.matches.score)
        elif len(regions):
            stem, file = f"{role}_regions", f"{role}_regions.seg.nrrd"
            masks = regions.masks(list(range(len(regions))))
            names = [f"region {k + 1}" for k in range(len(regions))]
        else:
            continue
        regions = segment(masks, names, pair.working, volume.geometry, transform)
        write_segmentation(folder / file, regions)
        labels = quick_view(regions)
        save_nifti(folder / f"{stem}.nii.gz", labels, volume.geometry)
        if volume.is_picture:
            save_picture(folder / f"{stem}.png", labels[None])


def write_fields(folder: Path, pair: Pair, ddf: Tensor, inverse: bool) -> dict:
    """Writes the field (1, n, *fixed.shape), fixed voxels, and on request its inverse, which pulls the fixed image.

    Returns:
        the error of the inverse under "inverse", or nothing.
    """
    grid = pair.fixed.geometry
    if not inverse:
        stream_field(folder / "ddf.nii.gz", ddf, grid, pair.transform)
        return {}
    u = world_displacement(ddf[0].numpy(), grid, pair.transform).astype(np.float32)
    write_field(folder / "ddf.nii.gz", u, grid)
    found, there, around = invert_chain([Field(u, grid)], grid, pair.moving.geometry)
    write_field(folder / "inverse_ddf.nii.gz", found.u_lps, found.grid)
    return {"inverse": {"residual": there, "residual_fixed": around}}


def write_confidence(folder: Path, pair: Pair, result: Registration) -> None:
    """Writes the confidence map on the fixed grid, float32 in [0, 1], if it was requested."""
    if result.confidence is not None:
        sure = resample(result.confidence[0].float().cpu(), pair.working, pair.fixed.geometry)[0]
        save_nifti(folder / "confidence.nii.gz", sure.numpy(), pair.fixed.geometry)


def write_moved(folder: Path, pair: Pair, ddf: Tensor) -> None:
    """Writes the moved image, interpolated once from the native one, in the type of its file."""
    grid = pair.fixed.geometry
    moving = torch.from_numpy(pair.moving.array)
    moved = resample(moving, pair.moving.geometry, grid, pair.transform, ddf, fill=float(moving.min())).numpy()
    moved = as_stored(moved, pair.moving)
    save_nifti(folder / "moved.nii.gz", moved[0] if len(moved) == 1 else np.moveaxis(moved, 0, -1), grid)
    if pair.moving.is_picture and pair.fixed.is_picture:
        save_picture(folder / "moved.png", moved)


def write_moved_label(folder: Path, pair: Pair, ddf: Tensor) -> None:
    """Writes the moved labels, if the pair has any."""
    if pair.moving_label is not None:
        label, grid = pair.moving_label, pair.fixed.geometry
        warped = resample_map(label.array[0], label.geometry, grid, pair.transform, ddf)
        save_nifti(folder / "moved_label.nii.gz", warped, grid, label.header)


def write_moved_landmarks(folder: Path, pair: Pair, ddf: Tensor) -> None:
    """Writes the positions of the fixed landmarks, if any, in the moving image."""
    if pair.fixed_landmarks is not None:
        points = fixed_to_moving(pair.fixed_landmarks, ddf, pair.fixed.geometry, pair.transform)
        write_landmark_file(folder / "moved_landmarks.csv", Landmarks(points))
