# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Lists of pairs: a CSV or JSON file, the data sets with splits, or phantoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from ..common.errors import InputError
from ..common.files import there, whole_file
from .pair import LoadPair
from .pair_rows import FILES, pair_rows
from .sample import pair_list
from .splits import split_of


def read_pairs(path: str | Path) -> list[dict]:
    """Reads a list of pairs for training or evaluation, see :func:`scripts.data.pair_rows.pair_rows`.

    Columns are "moving" and "fixed"; optionally "name", "moving_subject", "fixed_subject", "moving_label",
    "fixed_label", "moving_mask", "fixed_mask", "moving_landmarks", "fixed_landmarks", "init". A missing file raises
    :class:`InputError`.
    """
    pairs = pair_rows(path)
    for number, pair in enumerate(pairs, start=1):
        missing = [pair[key] for key in FILES if key in pair and not there(pair[key])]
        if missing:
            raise InputError(f"Pair {number} of {path} names {missing[0]}, which does not exist.")
    return pairs


def subjects(pairs: Sequence[dict]) -> set[str]:
    """The subjects of a list of pairs: the subject columns, or the image files if there are none."""
    return {str(p.get(f"{role}_subject") or Path(p[role]).resolve()) for p in pairs for role in ("moving", "fixed")}


def disjoint(training: list[dict], validation: list[dict]) -> list[dict]:
    """The training pairs; raises :class:`InputError` if they share a subject with the validation pairs."""
    common = subjects(training) & subjects(validation)
    if common:
        raise InputError(
            f"{len(common)} subjects are in both the training and the validation list, e.g. {min(common)}; remove each "
            "from one of them."
        )
    return training


def centre_crop(source: Path, target: Path, side: int) -> str:
    """Writes the in-plane centre of an image, ``side`` pixels wide; its place in space stays the same."""
    image = nib.load(source)
    start = [max(0, (n - side) // 2) for n in image.shape[:2]]
    with whole_file(target) as part:
        nib.save(image.slicer[start[0] : start[0] + side, start[1] : start[1] + side], part)
    return str(target)


def acdc_frames(folder: Path) -> dict[str, str]:
    """File stems of the end-diastolic and the end-systolic image of an ACDC patient, by "ED" and "ES"."""
    lines = (folder / "Info.cfg").read_text(encoding="utf-8").splitlines()
    info = dict(line.split(": ") for line in lines if line)
    return {phase: f"{folder.name}_frame{int(info[phase]):02d}" for phase in ("ED", "ES")}


def mask_file(folder: str, stem: str) -> Path:
    """The mask file of an image: its own name, or the name that ``python -m scripts masks`` gives."""
    choices = [Path(folder) / f"{stem}{end}.nii.gz" for end in ("", "_masks")]
    for path in choices:
        if path.exists():
            return path
    raise InputError(f"{folder} has no masks of {stem}; it should hold {choices[0].name} or {choices[1].name}.")


def acdc_pairs(data_dir: str, subset: str, cache_dir: str, crop: int = 128, mask_dir: str | None = None) -> list[dict]:
    """End-diastole (moving) to end-systole (fixed) of every patient of a split, cropped to the heart in plane.

    Args:
        data_dir: folder with ``acdc/`` and ``splits/acdc.json``.
        subset: "training" or "validation".
        cache_dir: keeps the cropped files.
        crop: in-plane side in pixels, 0 for whole images; slices stay native.
        mask_dir: folder of uncropped masks, see :func:`mask_file`; None for pairs without masks.
    """
    pairs = []
    for patient in split_of(Path(data_dir) / "splits", "acdc", subset):
        folder = Path(data_dir) / "acdc" / patient
        frames = acdc_frames(folder)
        pair = {"name": patient, "moving_subject": patient, "fixed_subject": patient}
        for role, phase in (("moving", "ED"), ("fixed", "ES")):
            stem = frames[phase]
            sources = {role: folder / f"{stem}.nii.gz", f"{role}_label": folder / f"{stem}_gt.nii.gz"}
            if mask_dir:
                sources[f"{role}_mask"] = mask_file(mask_dir, stem)
            for key, source in sources.items():
                if not crop:
                    pair[key] = str(source)
                    continue
                target = Path(cache_dir) / f"crop_{crop}" / key / source.name
                fresh = target.exists() and target.stat().st_mtime >= source.stat().st_mtime
                pair[key] = str(target) if fresh else centre_crop(source, target, crop)
        pairs.append(pair)
    return pairs


def abdomen_pairs(
    data_dir: str, subset: str, cache_dir: str, mask_dir: str | None = None, every: int = 1
) -> list[dict]:
    """Every ordered pair of two subjects of the abdominal CT split; the affine alignment is computed once and kept.

    Args:
        data_dir: folder with ``abdomen_ct/`` and ``splits/abdomen_ct.json``.
        subset: "training" or "validation".
        cache_dir: keeps the affine matrices.
        mask_dir: folder of masks, see :func:`mask_file`; None for pairs without masks.
        every: takes every n-th pair only.
    """
    names = split_of(Path(data_dir) / "splits", "abdomen_ct", subset)
    files = {name: ct_files(data_dir, name, mask_dir) for name in names}
    return ct_pairs(files, list(permutations(names, 2))[::every], cache_dir)


def ct_files(data_dir: str, name: str, mask_dir: str | None) -> dict[str, Path]:
    """The files of an abdominal CT subject, by the ending of their key in a pair: "", "_label" and perhaps "_mask"."""
    folder = Path(data_dir) / "abdomen_ct"
    files = {"": folder / f"img{name}.nii.gz", "_label": folder / f"label{name}.nii.gz"}
    return files | ({"_mask": mask_file(mask_dir, f"img{name}")} if mask_dir else {})


def ct_pairs(files: Mapping[str, Mapping[str, Path]], couples: Sequence[tuple[str, str]], cache_dir: str) -> list[dict]:
    """Pairs of CT subjects, given as (moving, fixed) names with files as in :func:`ct_files`, with affine starts."""
    pairs = []
    for moving, fixed in tqdm(couples, desc="Affine starts"):
        pair = {"name": f"{moving} to {fixed}", "moving_subject": moving, "fixed_subject": fixed}
        for role, name in (("moving", moving), ("fixed", fixed)):
            pair |= {f"{role}{kind}": str(path) for kind, path in files[name].items()}
        pairs.append({**pair, "init": affine_start(pair, Path(cache_dir) / "affine" / f"{moving}_to_{fixed}.txt")})
    return pairs


def affine_start(pair: dict, path: Path) -> str:
    """The file with the affine alignment of a pair of CT images, which is computed if it does not exist."""
    if not path.exists():
        images = {k: pair[k] for k in ("moving", "fixed")}
        transform = LoadPair("ct", "affine", affine_size=64)(images)["pair"].transform
        with whole_file(path) as part:
            np.savetxt(part, transform)
    return str(path)


def phantom_pairs(sample_dir: str, count: int, first_seed: int = 0, sample: str = "cardiac") -> list[dict]:
    """``count`` phantom pairs, for training without data; validation needs another ``first_seed``."""
    return [pair_list(sample_dir, sample, seed)[0] for seed in range(first_seed, first_seed + count)]
