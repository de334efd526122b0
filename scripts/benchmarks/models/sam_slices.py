# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Labelled slices to measure a Segment Anything model with, oriented and windowed as in registration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...correspondence.slicing import plan_slices
from ...data.batches import plain
from ...data.intensity import apply_window
from ...data.pair_lists import acdc_frames
from ...data.phantoms.abdomen import abdomen_pair
from ...data.phantoms.cardiac import cardiac_pair
from ...data.phantoms.pair import PhantomPair
from ...data.reader import Volume, read_volume
from ...data.splits import evenly, split_of
from ...spatial.geometry import Geometry
from ..abdomens.rois import NAMES as ABDOMEN
from ..hearts.acdc import NAMES as HEART

NAMES = {
    "heart": HEART,
    # Both kidneys are one row of a table, and two structures of a slice.
    "abdomen": ABDOMEN | {2: "kidneys", 3: "kidneys"},
}
UNIONS = {"heart": ((2, 3), (1, 2, 3)), "abdomen": ()}
MIN_SHARE = 0.001  # of the slice; smaller structures are a few pixels
FIRST_SEED = 900_000  # phantoms that no training sees


@dataclass(frozen=True, eq=False)
class LabelledSlice:
    """One slice with its structures.

    Attributes:
        kind: "heart" or "abdomen", which decides what the labels mean.
        subject: whose image it is, e.g. "patient003 ED".
        position: slice number.
        picture: (3, H, W) in 0..255.
        label: (H, W) int16.
        pixel_mm2: area of a pixel; None where it is unknown.
    """

    kind: str
    subject: str
    position: int
    picture: Tensor
    label: Tensor
    pixel_mm2: float | None = None

    def structures(self, least: float = MIN_SHARE) -> dict[int, Tensor]:
        """Masks (H, W) bool by label value of the structures that cover at least this share of the slice."""
        values, counts = self.label.unique(return_counts=True)
        shares = zip(values.tolist(), (counts / self.label.numel()).tolist())
        return {v: self.label == v for v, share in shares if v in NAMES[self.kind] and share >= least}


def cut(kind: str, subject: str, image: Volume, label: Volume, window: str, crop: int = 0) -> list[LabelledSlice]:
    """All slices of a labelled image.

    Args:
        kind: "heart" or "abdomen".
        subject: name.
        image: 2-D or 3-D.
        label: on the same grid.
        window: see :func:`scripts.data.intensity.apply_window`.
        crop: side in pixels of the in-plane centre that is shown; 0 shows the whole slice.
    """
    plan = plan_slices(image.geometry)
    pictures = plan.cut(plain(apply_window(torch.from_numpy(image.array.astype(np.float32)), window)))
    labels = plan.cut(torch.from_numpy(label.array.astype(np.float32)))[:, 0] / 255
    if crop:
        top, left = (max(0, (side - crop) // 2) for side in labels.shape[1:])
        pictures, labels = (x[..., top : top + crop, left : left + crop] for x in (pictures, labels))
    area = plan.pixel_mm2(image.geometry.spacing)
    both = zip(pictures, labels.round().to(torch.int16))
    return [LabelledSlice(kind, subject, k, *shown, area) for k, shown in enumerate(both)]


def heart_slices(data_dir: str, subset: str = "validation", crop: int = 0) -> Iterator[list[LabelledSlice]]:
    """Slices of every patient of the ACDC split, end-diastole then end-systole, one list per image."""
    for patient in split_of(Path(data_dir) / "splits", "acdc", subset):
        folder = Path(data_dir) / "acdc" / patient
        for phase, stem in acdc_frames(folder).items():
            image, label = (read_volume(folder / f"{stem}{end}.nii.gz") for end in ("", "_gt"))
            yield cut("heart", f"{patient} {phase}", image, label, "mr", crop)


def abdomen_slices(data_dir: str, subset: str = "validation") -> Iterator[list[LabelledSlice]]:
    """Axial slices of every subject of the abdominal CT split, one list per subject."""
    folder = Path(data_dir) / "abdomen_ct"
    for name in split_of(Path(data_dir) / "splits", "abdomen_ct", subset):
        image, label = (read_volume(folder / f"{kind}{name}.nii.gz") for kind in ("img", "label"))
        yield cut("abdomen", name, image, label, "ct")


def phantom_volumes(count: int, planar: bool = False) -> Iterator[tuple[str, PhantomPair]]:
    """(kind, pair) of phantoms, hearts and abdomens in turn."""
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        if seed % 2:
            shape, spacing = ((192, 144), (1.9, 1.9)) if planar else ((192, 144, 6), (1.9, 1.9, 22.0))
            yield "abdomen", abdomen_pair(seed, shape, spacing)
        else:
            shape, spacing = ((208, 208), (1.2, 1.2)) if planar else ((208, 208, 6), (1.2, 1.2, 10.0))
            yield "heart", cardiac_pair(seed, shape, spacing)


def phantom_slices(count: int) -> Iterator[list[LabelledSlice]]:
    """Slices of both images of phantom pairs, one list per image."""
    for number, (kind, pair) in enumerate(phantom_volumes(count)):
        for role in ("moving", "fixed"):
            image, label = getattr(pair, role), getattr(pair, f"{role}_label")
            geometry = Geometry(image.shape, getattr(pair, f"{role}_affine"))
            volumes = (Volume(a[None], geometry, "phantom") for a in (image, label))
            yield cut(kind, f"phantom {number} {role}", *volumes, pair.modality)


def some(images: Iterator[list[LabelledSlice]], count: int) -> list[LabelledSlice]:
    """``count`` slices with a structure, evenly from all of them; all where there are no more or ``count`` is 0."""
    found = [one for image in images for one in image if one.structures()]
    return evenly(found, count)
