# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Abdominal CT after the protocol of Learn2Reg: a cube of 160 voxels of 2 mm, 12 organs, unordered pairs."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from tqdm import tqdm

from ..common.files import whole_file
from ..spatial.geometry import Geometry, resample, resample_map
from .pair_lists import ct_files, ct_pairs
from .reader import read_volume
from .splits import split_of

GALLBLADDER = 4  # the only one of the 13 organs of BTCV that the protocol leaves out


def learn2reg_pairs(
    data_dir: str,
    subset: str,
    cache_dir: str,
    mask_dir: str | None = None,
    split: str = "learn2reg",
    side: int = 160,
    spacing_mm: float = 2.0,
) -> list[dict]:
    """Every unordered pair of a part of the abdominal CT subjects: 190 of 20 for training, 45 of 10 for testing.

    The images are resampled to a cube around their centre. Labels and masks lose the gallbladder, and the values of the
    organs after it decrease by one. The affine alignment, which the challenge provides, is computed once and kept.

    Args:
        data_dir: folder with ``abdomen_ct/`` and ``splits/``.
        subset: see :func:`scripts.data.splits.split_of`.
        cache_dir: keeps the cubes and the affine matrices.
        mask_dir: folder of masks of the 13 organs, see :func:`scripts.data.pair_lists.mask_file`; None for pairs
            without masks.
        split: file in ``splits/`` that lists the subjects.
        side: of the cube in voxels.
        spacing_mm: of its voxels.

    Reference:
        Hering et al., IEEE TMI 42(3), 2023; section 4.1 of Xu et al., IPMI 2025.
    """
    names = split_of(Path(data_dir) / "splits", split, subset)
    cubes = Path(cache_dir) / f"cube_{side}_{spacing_mm:g}mm"
    files = {}
    for name in tqdm(names, desc="Cubes"):
        files[name] = {
            kind: cube(path, cubes / f"{name}{kind}.nii.gz", side, spacing_mm, kind)
            for kind, path in ct_files(data_dir, name, mask_dir).items()
        }
    return ct_pairs(files, list(combinations(names, 2)), cache_dir)


def cube(source: Path, target: Path, side: int, spacing_mm: float, kind: str = "") -> Path:
    """Writes an image, or a label map if it has a kind, on a cube around its centre unless a newer file exists."""
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    volume = read_volume(source)
    own = volume.geometry
    scale = np.diag([*(spacing_mm / np.asarray(own.spacing)), 1.0])
    scale[:3, 3] = (np.asarray(own.shape) - 1) / 2 - scale[:3, :3] @ np.full(3, (side - 1) / 2)
    grid = Geometry((side,) * 3, own.affine @ scale)
    if kind:
        labels = np.rint(volume.array[0]).astype(np.uint8)
        labels[labels == GALLBLADDER] = 0
        array = resample_map(labels - (labels > GALLBLADDER), own, grid)
    else:
        image = torch.from_numpy(volume.array.astype(np.float32))
        array = resample(image, own, grid, fill=float(image.min()))[0].numpy().round().astype(np.int16)
    with whole_file(target) as part:
        nib.save(nib.Nifti1Image(array, grid.affine), part)
    return target
