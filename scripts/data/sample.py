# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The pair to register: the user's files, or a generated phantom pair if no image is given."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from ..common.errors import InputError
from ..spatial.fields import write_field
from ..spatial.geometry import Geometry, world_displacement
from ..spatial.landmark_files import Landmarks, write_landmark_file
from .images import image_items
from .phantoms.abdomen import abdomen_pair
from .phantoms.cardiac import cardiac_pair
from .phantoms.pair import PhantomPair

logger = logging.getLogger(__name__)

MAKERS = {"cardiac": cardiac_pair, "abdomen": abdomen_pair}


def write_phantom(folder: str | Path, pair: PhantomPair) -> dict[str, str]:
    """Writes a phantom pair with labels, landmarks and the true field; 2-D images get one slice.

    Returns:
        Paths by role: moving, fixed, moving_label, fixed_label, moving_landmarks, fixed_landmarks, true_ddf.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for role, array, affine in (
        ("moving", np.rint(pair.moving).astype(np.int16), pair.moving_affine),
        ("fixed", np.rint(pair.fixed).astype(np.int16), pair.fixed_affine),
        ("moving_label", pair.moving_label, pair.moving_affine),
        ("fixed_label", pair.fixed_label, pair.fixed_affine),
    ):
        paths[role] = str(folder / f"{role}.nii.gz")
        image = nib.Nifti1Image(array if array.ndim == 3 else array[:, :, None], affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, paths[role])
    for role, points in (("moving_landmarks", pair.moving_landmarks), ("fixed_landmarks", pair.fixed_landmarks)):
        paths[role] = str(folder / f"{role}.csv")
        write_landmark_file(paths[role], Landmarks(points))
    grid = Geometry(pair.fixed.shape, pair.fixed_affine)
    paths["true_ddf"] = str(folder / "true_ddf.nii.gz")
    write_field(paths["true_ddf"], world_displacement(pair.ddf, grid), grid)
    return paths


def pair_list(sample_dir: str, sample: str = "cardiac", sample_seed: int = 0, **paths) -> list[dict]:
    """The list of the one pair to register: the user's files, or a phantom if neither image is named.

    Args:
        sample_dir: keeps the phantom pair.
        sample: "cardiac" or "abdomen", the kind of phantom.
        sample_seed: its seed.
        paths: moving, fixed, and optionally their labels, landmarks and frames, see
            :class:`scripts.data.pair.LoadPair`.
    """
    named = [role for role in ("moving", "fixed") if paths.get(role)]
    if len(named) == 1:
        raise InputError(f"Only the {named[0]} image was given; both --moving and --fixed are needed.")
    if named:
        return [paths]
    folder = phantom_folder(sample_dir, sample, sample_seed)
    roles = {"moving": "nii.gz", "fixed": "nii.gz", "moving_label": "nii.gz", "fixed_label": "nii.gz"}
    roles |= {"moving_landmarks": "csv", "fixed_landmarks": "csv"}
    return [{**paths, **{role: str(folder / f"{role}.{ending}") for role, ending in roles.items()}}]


def image_list(sample_dir: str, images: str | Sequence[str] | None = None, sample: str = "cardiac") -> list[dict]:
    """The images to segment, see :func:`scripts.data.images.image_items`; a phantom pair if none is given."""
    if not images:
        folder = phantom_folder(sample_dir, sample, 0)
        images = [str(folder / "moving.nii.gz"), str(folder / "fixed.nii.gz")]
    return image_items(images)


def phantom_folder(sample_dir: str, sample: str, seed: int) -> Path:
    """The folder of a phantom pair, generated if it does not exist yet; :class:`InputError` for an unknown kind."""
    if sample not in MAKERS:
        raise InputError(f"sample must be one of {', '.join(MAKERS)}, got {sample!r}.")
    folder = Path(sample_dir) / f"{sample}_{seed}"
    if not (folder / "true_ddf.nii.gz").exists():  # written last
        logger.info("no image was given: writing a %s phantom pair to %s", sample, folder)
        write_phantom(folder, MAKERS[sample](seed))
    return folder
