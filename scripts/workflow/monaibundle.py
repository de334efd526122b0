# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The bundle under MONAI Label's generic app ``monaibundle``, which sends one image and expects a label map back.

That app runs the parts of ``configs/inference.json``: preprocessing, inferer, postprocessing. The config recognises it
by the key ``use_click``, which the app sets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from monai.transforms import Transform

from ..common.errors import InputError
from ..correspondence.result import Registration
from ..data.batches import inference_batch
from ..data.pair import Pair
from ..spatial.geometry import resample_map


class RequestedPair(Transform):
    """The image of a request becomes the fixed one; the parameter "moving" of the request must name the other."""

    def __call__(self, data: Mapping) -> dict:
        if not isinstance(data.get("moving"), str):
            raise InputError(
                'Name the second image in the parameters of the request: {"moving": "FILE ON THE SERVER"}.'
            )
        return {**data, "fixed": data["image"]}


class NetworkInput(Transform):
    """Joins the images and their masks to "image" (4, *shape), as the bundle's own engine does for its batches."""

    def __call__(self, data: Mapping) -> dict:
        batch = {"image": data["image"][None], "masks": data["masks"]}
        return {**data, "image": inference_batch(batch, "cpu")[0][0]}


class CarriedLabels(Transform):
    """The labels of the moving image on the grid of the fixed one, as the answer to a request.

    "pred" becomes the label map (1, X, Y, Z) named by the parameter "moving_label", or else the masks of structures
    that the network used; "image_meta_dict" has its affine.
    """

    def __call__(self, data: Mapping) -> dict:
        pair: Pair = data["pair"]
        result: Registration = data["pred"]
        grid = pair.fixed.geometry
        ddf = pair.on_fixed_grid(result.ddf)
        if pair.moving_label is not None:
            label = pair.moving_label
            carried = resample_map(label.array[0], label.geometry, grid, pair.transform, ddf)
        else:
            mask = torch.as_tensor(data["masks"])[0].cpu().numpy().astype(np.uint8)
            carried = resample_map(mask, pair.working, grid, None, ddf)
        meta = {"original_affine": grid.affine, "affine": grid.affine, "spatial_shape": np.asarray(grid.shape)}
        image = torch.as_tensor(np.zeros((1, *grid.shape), np.uint8))  # later transforms use only its geometry
        return {**data, "pred": torch.from_numpy(carried[None].copy()), "image": image, "image_meta_dict": meta}
