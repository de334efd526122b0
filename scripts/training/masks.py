# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Training data of the bundled segmentation networks: labelled images of the splits, on the grid of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.losses import DeepSupervisionLoss
from monai.networks.nets import DynUNet
from monai.transforms import Transform
from torch import Tensor, nn

from ..common.errors import InputError
from ..common.files import whole_file
from ..common.weights import export_weights, start_from
from ..data.intensity import apply_window
from ..data.pair_lists import ct_files
from ..data.reader import read_volume
from ..data.splits import split_of
from ..masks.grid import as_volume, model_grid
from ..masks.net import build_net, net_spec
from ..spatial.geometry import resample


def labelled_items(dataset_dir: str | Path | None, dataset: str, part: str = "training") -> list[dict[str, str]]:
    """The labelled images of a split, dicts with the paths "image" and "label", and "subject".

    Args:
        dataset_dir: folder with ``splits/`` and a folder for each data set.
        dataset: "acdc" (both labelled frames of each patient) or "abdomen_ct" (one image a subject).
        part: "training" or "validation".
    """
    if dataset_dir is None:
        raise InputError("Training a segmentation network needs labelled images; give their folder with --dataset_dir.")
    folder, items = Path(dataset_dir) / dataset, []
    for subject in split_of(Path(dataset_dir) / "splits", dataset, part):
        if dataset == "acdc":
            labels = sorted((folder / subject).glob("*_gt.nii.gz"))
            images = [label.with_name(label.name.replace("_gt", "")) for label in labels]
        elif dataset == "abdomen_ct":
            files = ct_files(dataset_dir, subject, None)
            labels, images = [files["_label"]], [files[""]]
        else:
            raise InputError(f"Unknown data set {dataset!r}; choose acdc or abdomen_ct.")
        items += [{"image": str(i), "label": str(x), "subject": subject} for i, x in zip(images, labels)]
    if not items:
        raise InputError(f"{folder} has no labelled images of the split; give the folder of the data.")
    return items


def inner_part(items: Sequence[dict], held_out: int, fold: int = 0) -> tuple[list[dict], list[dict]]:
    """Splits training items by subject, so that settings can be chosen without using the validation subjects.

    One in ``held_out`` subjects is held out, from number ``fold``; 0 holds out none.
    """
    names = sorted({item["subject"] for item in items})
    out = set(names[fold::held_out]) if held_out else set()
    return [i for i in items if i["subject"] not in out], [i for i in items if i["subject"] in out]


def list_images(items: Sequence[dict], path: str | Path) -> None:
    """Writes the images of items, one path a line, for the command ``masks``; no file without items."""
    if items:
        with whole_file(path) as part:
            part.write_text("".join(f"{Path(item['image']).resolve()}\n" for item in items), encoding="utf-8")


class PrepareLabelled(Transform):
    """Reads an image with its label map onto the grid of a bundled network.

    "image" is (1, X, Y, Z) float16 in [0, 1] and "label" (1, X, Y, Z) uint8.
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


def training_net(name: str, heads: int = 0, initial_weights: str | None = None) -> DynUNet:
    """A bundled network for training, with random weights or those of a file, and random heads for deep supervision.

    Args:
        name: see :func:`scripts.masks.net.build_net`, also for ``heads``.
        heads: coarser levels that also predict the labels.
        initial_weights: of a network without such heads, as the training writes them.
    """
    net = start_from(build_net(name), initial_weights)
    if not heads:
        return net
    deep = build_net(name, heads)
    deep.load_state_dict(net.state_dict(), strict=False)
    return deep


def export_net(net: DynUNet, name: str, path: str | Path) -> None:
    """Saves the weights of a network without its heads for deep supervision, which only training uses."""
    plain = build_net(name)
    state = net.state_dict()
    plain.load_state_dict({key: state[key] for key in plain.state_dict()})
    export_weights(plain, path)


class DeepSupervision(nn.Module):
    """The loss of a network with deep supervision: the sum over its predictions, each level half as much as the finer.

    Dou et al., Medical Image Analysis 41, 2017; the weights are nnU-Net's (Isensee et al., Nature Methods 18, 2021)
    before they are normalised.

    Args:
        loss: of one prediction (B, C, X, Y, Z) and the labels (B, 1, X, Y, Z).
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = DeepSupervisionLoss(loss, weight_mode="exp")

    def forward(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Predictions are (B, levels, C, X, Y, Z), or (B, C, X, Y, Z) of a network without heads."""
        deep = predictions.ndim > labels.ndim
        return self.loss(list(predictions.unbind(1)) if deep else predictions, labels)
