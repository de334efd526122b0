# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Masks of named structures for the network, on the grid of the pair."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from torch import Tensor

from ..common.errors import InputError
from ..spatial.geometry import resample
from .pair import Pair
from .reader import Volume

logger = logging.getLogger(__name__)


class AddMasks(Transform):
    """Adds the masks of both images to the output of :class:`scripts.data.pair.LoadPair`.

    Args:
        structures: names, lower case; structure i has the label i + 1. None takes all that the source offers.
        source: makes the masks of a pair without mask files. None leaves them empty. "label" takes the label maps, for
            training subjects and for upper bounds. Otherwise a callable that takes an image
            (:class:`scripts.data.reader.Volume`) and the names, and returns a label map on its grid, or an object with
            the attribute ``labels``.

    "masks" (2, *working.shape) float are the moving and fixed labels on the working grid, 0 where the images are
    excluded; "pair" holds the masks on their own grids. A label without a name, or "label" without label maps, raises
    :class:`InputError`.
    """

    def __init__(
        self, structures: Sequence[str] | None, source: str | Callable[[Volume, Sequence[str]], Any] | None = None
    ) -> None:
        if isinstance(source, str) and source != "label":
            raise InputError(f"The mask source must be null, label or a callable, got {source!r}.")
        self.structures, self.source = list(structures or getattr(source, "offered", ())), source

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        pair: Pair = data["pair"]
        moving, fixed = (self._mask(pair, role) for role in ("moving", "fixed"))
        pair = replace(pair, moving_mask=moving, fixed_mask=fixed)
        masks = on_working_grid(pair, moving, fixed)
        return {**data, "pair": pair, "masks": masks * data["weight"] if "weight" in data else masks}

    def _mask(self, pair: Pair, role: str) -> Volume | None:
        image = pair.seen(role)
        mask: Volume | None = getattr(pair, f"{role}_mask")
        if mask is None and self.source == "label":
            mask = getattr(pair, f"{role}_label")
            if mask is None:
                raise InputError(f"{image.path} has no label map to take masks from; add {role}_label or masks.")
        elif mask is None and self.source is not None:
            made = self.source(image, self.structures)
            array = np.asarray(getattr(made, "labels", made)).reshape(1, *image.geometry.shape)
            mask = Volume(array, image.geometry, f"masks of {image.path}")
        if mask is not None:
            highest = int(mask.array.max())
            if highest > len(self.structures):
                raise InputError(
                    f"{mask.path} contains the label {highest}, but there are {len(self.structures)} structures "
                    f"({', '.join(self.structures)}); relabel it from 1 in this order."
                )
        return mask


def on_working_grid(pair: Pair, moving: Volume | None, fixed: Volume | None) -> Tensor:
    """Label maps of both images on the working grid, (2, *shape) float; zeros for None."""
    maps = []
    for volume, transform in ((moving, pair.transform), (fixed, None)):
        if volume is None:
            maps.append(torch.zeros(1, *pair.working.shape))
            continue
        array = torch.from_numpy(volume.array.astype(np.float32))
        maps.append(resample(array, volume.geometry, pair.working, transform, mode="nearest", fill=0.0))
    return torch.cat(maps)


@dataclass(eq=False)
class PairTensors(Transform):
    """Reduces a loaded pair to the tensors that training needs, so that it can be cached and batched.

    Args:
        need_labels: refuses pairs without label maps, which validation needs.
        need_targets: refuses pairs without structures in both images, from which losses on structures learn nothing.

    Output: "image" (2, *shape) moving and fixed in [0, 1], grey; "masks" (2, *shape), which the network sees; "labels"
    (2, *shape), zeros if absent; "targets" (2, *shape) of the losses, the labels of a pair that has both, otherwise
    the masks without the errors of the augmentation; "spacing" (n,) mm; "name".

    Raises:
        InputError: what is needed is missing.
    """

    need_labels: bool = False
    need_targets: bool = False

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        pair: Pair = data["pair"]
        labelled = pair.moving_label is not None and pair.fixed_label is not None
        if self.need_labels and not labelled:
            raise InputError(f"{pair.moving.path} and {pair.fixed.path} need label maps of both images to be measured.")
        image, masks = torch.as_tensor(data["image"]), data["masks"]
        labels = on_working_grid(pair, pair.moving_label, pair.fixed_label)
        targets = labels * data.get("weight", 1) if labelled else masks.clone()
        if self.need_targets:
            for role, target in zip(("moving", "fixed"), targets):
                if not target.any():
                    raise InputError(
                        f"The {'label map' if labelled else 'mask'} of {getattr(pair, role).path} has none of the "
                        "structures; a pair to train on needs them in both images."
                    )
        return {
            "image": torch.stack([half.mean(dim=0) for half in image.chunk(2)]),
            "masks": masks,
            "targets": targets,
            "labels": labels,
            "spacing": torch.tensor(pair.working.spacing),
            "name": f"{pair.moving.path} to {pair.fixed.path}",
        }
