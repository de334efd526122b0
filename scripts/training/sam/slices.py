# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Training slices of the compact SAM: 2-D images with layers of region masks, made once and kept in a cache folder.

Layers are label maps: the first holds anatomical structures (or exact shapes), the others class-agnostic regions from
graph segmentation at two scales (Felzenszwalb and Huttenlocher, IJCV 2004), so that the model learns more than organs.
"""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ...common.errors import InputError
from ...data.intensity import apply_window
from ...data.phantoms.abdomen import abdomen_pair
from ...data.phantoms.cardiac import TISSUE_GROUPS, cardiac_pair
from ...data.splits import evenly, split_of
from .shapes import shape_image

logger = logging.getLogger(__name__)

REGION_SCALES = (40, 160)


@dataclass(frozen=True)
class Slice:
    """One training slice.

    Attributes:
        image: (H, W) uint8.
        layers: (L, H, W) int16 label maps, 0 where a layer has nothing.
        groups: tuples of values of the first layer that form one larger object.
        class_offset: anatomical class minus value of the first layer; 0 for shapes without a class.
    """

    image: NDArray
    layers: NDArray
    groups: tuple[tuple[int, ...], ...] = ()
    class_offset: int = 0


def region_layers(image: NDArray) -> NDArray:
    """Graph segmentation of a slice at two scales, with smoothed borders: (2, H, W) int16, numbered from 1."""
    from skimage.filters.rank import majority
    from skimage.morphology import disk
    from skimage.segmentation import felzenszwalb

    layers = []
    for scale in REGION_SCALES:
        regions = felzenszwalb(image / 255.0, scale=scale, sigma=1.0, min_size=40)
        layers.append(majority(regions.astype(np.uint16), disk(2)).astype(np.int16) + 1)
    return np.stack(layers)


def volume_slices(
    image: NDArray,
    label: NDArray,
    window: str,
    axes: Sequence[int],
    step: int,
    groups: tuple[tuple[int, ...], ...],
    class_offset: int,
    most: int = 0,
) -> list[Slice]:
    """Cuts a labelled volume (X, Y, Z) across the given axes: every ``step``-th slice, at most ``most`` unless 0."""
    grey = (apply_window(image[None], window)[0].numpy() * 255).astype(np.uint8)
    bright = [
        (axis, k)
        for axis in axes
        for k in range(step // 2, grey.shape[axis], step)
        if (grey.take(k, axis) > 8).mean() >= 0.05
    ]
    slices = []
    for axis, k in evenly(bright, most):
        picture = np.ascontiguousarray(grey.take(k, axis).T)
        names = label.take(k, axis).T.astype(np.int16)[None]
        slices.append(Slice(picture, np.concatenate([names, region_layers(picture)]), groups, class_offset))
    return slices


def acdc_subject(folder: Path, class_offset: int = 100, most: int = 0) -> list[Slice]:
    """Short-axis slices of both labelled frames of an ACDC patient; the epicardium and the whole heart are groups."""
    slices = []
    labels = sorted(folder.glob("*_gt.nii*"))
    if not labels:
        raise InputError(f"{folder} has no label maps *_gt.nii.gz; give the folder of the ACDC patients as --acdc_dir.")
    for label in labels:
        image = label.with_name(label.name.replace("_gt", ""))
        volume, names = nib.load(image).get_fdata(), nib.load(label).get_fdata()
        slices += volume_slices(volume, names, "mr", (2,), 1, ((2, 3), (1, 2, 3)), class_offset, most // len(labels))
    return slices


def abdomen_subject(image: Path, class_offset: int = 200, most: int = 0) -> list[Slice]:
    """Axial, coronal and sagittal slices of an abdominal CT with 13 organs."""
    label = image.with_name(image.name.replace("img", "label"))
    for path in (image, label):
        if not path.exists():
            raise InputError(f"{path} does not exist; give the folder of the abdominal images as --abdomen_dir.")
    volume, names = nib.load(image).get_fdata(), nib.load(label).get_fdata()
    axial = volume_slices(volume, names, "ct", (2,), 2, (), class_offset, most - most // 3)
    return axial + volume_slices(volume, names, "ct", (0, 1), 6, (), class_offset, most // 3)


def phantom_subject(seed: int) -> list[Slice]:
    """Slices of one random phantom pair; every tissue is an exact mask."""
    if seed % 2:
        pair = abdomen_pair(seed, (128, 96, 4), (2.8, 2.8, 22.0))
    else:
        pair = cardiac_pair(seed, (144, 144, 4), (1.4, 1.4, 16.0))
    groups = () if pair.modality == "ct" else TISSUE_GROUPS
    slices = []
    for image, tissue in ((pair.moving, pair.moving_tissue), (pair.fixed, pair.fixed_tissue)):
        slices += volume_slices(image, tissue, pair.modality, (2,), 1, groups, 300 + 50 * (seed % 2))
    return slices


def shape_subject(seed: int, count: int = 40) -> list[Slice]:
    """Images of random shapes."""
    slices = []
    for k in range(count):
        image, layers, groups = shape_image(np.random.default_rng([seed, k]), 256)
        slices.append(Slice(image, np.concatenate([layers, layers[1:]]), tuple(groups), 0))
    return slices


def save_slices(path: Path, slices: Iterable[Slice]) -> None:
    """Writes the slices of one subject as one compressed file, complete or not at all."""
    arrays = {}
    for i, s in enumerate(slices):
        arrays[f"image{i}"], arrays[f"layers{i}"] = s.image, s.layers
        arrays[f"info{i}"] = np.array(json.dumps({"groups": s.groups, "class_offset": s.class_offset}))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")  # other processes of one training may make it too
    np.savez_compressed(part, **arrays)
    part.replace(path)


def load_slices(path: Path) -> list[Slice]:
    """Reads what :func:`save_slices` wrote."""
    slices = []
    with np.load(path) as arrays:
        for i in range(len(arrays.files) // 3):
            info = json.loads(str(arrays[f"info{i}"]))
            groups = tuple(tuple(g) for g in info["groups"])
            slices.append(Slice(arrays[f"image{i}"], arrays[f"layers{i}"], groups, info["class_offset"]))
    return slices


def cached_subjects(cache_dir: str | Path, subjects: dict[str, Callable[[], list[Slice]]]) -> list[Slice]:
    """The slices of every subject, by file name; the cache keeps one file per subject."""
    paths = {name: Path(cache_dir) / f"{name}.npz" for name in subjects}
    missing = [name for name, path in paths.items() if not path.exists()]
    random.Random(os.getpid()).shuffle(missing)  # processes of one training share the work and begin elsewhere
    for name in missing:
        if not paths[name].exists():
            logger.info("making training slices of %s", name)
            save_slices(paths[name], subjects[name]())
    return [found for path in paths.values() for found in load_slices(path)]


def sam_slices(
    cache_dir: str,
    acdc_dir: str | None = None,
    abdomen_dir: str | None = None,
    split_dir: str | None = None,
    subset: str = "training",
    phantoms: int = 120,
    shapes: int = 40,
    first_seed: int = 0,
    most: int = 0,
) -> dict[str, list[Slice]]:
    """The training slices by source.

    Args:
        cache_dir: where slices are kept between runs.
        acdc_dir: folder of ACDC patients, or None to leave them out.
        abdomen_dir: folder of ``imgNNNN.nii.gz`` and ``labelNNNN.nii.gz``, or None.
        split_dir: folder of ``acdc.json`` and ``abdomen_ct.json``, each with the lists "training" and "validation".
        subset: which list of the splits to take.
        phantoms: number of phantom pairs.
        shapes: number of sets of 40 shape images.
        first_seed: seed of the first phantom and the first set of shapes; use another one for validation.
        most: slices of a real subject, evenly spaced; 0 takes all.
    """
    groups: dict[str, dict[str, Callable[[], list[Slice]]]] = {
        "phantom": {f"phantom_{i}": lambda i=i: phantom_subject(i) for i in range(first_seed, first_seed + phantoms)},
        "shapes": {f"shapes_{i}": lambda i=i: shape_subject(i) for i in range(first_seed, first_seed + shapes)},
    }
    few = f"_{most}" if most else ""
    if acdc_dir:
        names = split_of(split_dir, "acdc", subset)
        groups["acdc"] = {f"acdc_{n}{few}": lambda n=n: acdc_subject(Path(acdc_dir) / n, most=most) for n in names}
    if abdomen_dir:
        names = split_of(split_dir, "abdomen_ct", subset)
        groups["abdomen"] = {
            f"abdomen_{n}{few}": lambda n=n: abdomen_subject(Path(abdomen_dir) / f"img{n}.nii.gz", most=most)
            for n in names
        }
    return {source: cached_subjects(cache_dir, subjects) for source, subjects in groups.items() if subjects}
