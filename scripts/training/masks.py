# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Data of the bundled networks' training: labelled images of the splits, on the network's grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Transform
from torch import Tensor

from ..common.errors import InputError
from ..data.intensity import apply_window
from ..data.reader import read_volume
from ..data.splits import split_of
from ..masks.grid import as_volume, model_grid
from ..masks.net import net_spec
from ..spatial.geometry import resample


def acdc_items(folder: str | Path, split_dir: str | Path, part: str = "training") -> list[dict]:
    """Both labelled frames of every ACDC patient of a split: dicts with paths "image" and "label"."""
    items = []
    for patient in split_of(split_dir, "acdc", part):
        for label in sorted((Path(folder) / patient).glob("*_gt.nii.gz")):
            items.append({"image": str(label).replace("_gt", ""), "label": str(label), "subject": patient})
    return _found(items, folder)


def abdomen_items(folder: str | Path, split_dir: str | Path, part: str = "training") -> list[dict]:
    """Every BTCV subject of a split: dicts with paths "image" and "label"."""
    folder = Path(folder)
    items = [
        {"image": str(folder / f"img{s}.nii.gz"), "label": str(folder / f"label{s}.nii.gz"), "subject": s}
        for s in split_of(split_dir, "abdomen_ct", part)
    ]
    return _found(items, folder)


def _found(items: list[dict], folder: str | Path) -> list[dict]:
    if not items:
        raise InputError(f"{folder} has no labelled images of the split; give the folder of the data.")
    return items


def inner_part(items: Sequence[dict], held_out: int, fold: int = 0) -> tuple[list[dict], list[dict]]:
    """Splits training items by subject, so that settings can be chosen without a look at the validation subjects.

    Args:
        items: with "subject".
        held_out: every how-manyth subject is held out; 0 holds out none.
        fold: which of them.
    """
    names = sorted({item["subject"] for item in items})
    out = set(names[fold::held_out]) if held_out else set()
    return [i for i in items if i["subject"] not in out], [i for i in items if i["subject"] in out]


class PrepareLabelled(Transform):
    """Reads an image with its label map onto the grid of a bundled network.

    Args:
        net: name of the network.

    Input: a dict with paths "image" and "label".

    Output: "image" (1, X, Y, Z) float16 in [0, 1] and "label" (1, X, Y, Z) uint8.
    """

    def __init__(self, net: str) -> None:
        self.spec = net_spec(net)

    def __call__(self, item: Mapping[str, str]) -> dict[str, Tensor]:
        image, label = read_volume(item["image"]), read_volume(item["label"])
        array, native = as_volume(apply_window(torch.from_numpy(image.array), self.spec.modality), image.geometry)
        values, _ = as_volume(torch.from_numpy(np.rint(label.array).astype(np.float32)), label.geometry)
        grid = model_grid(native, self.spec.layout, self.spec.spacing_mm)
        return {
            "image": resample(array, native, grid).half(),
            "label": resample(values, native, grid, mode="nearest").to(torch.uint8),
        }
