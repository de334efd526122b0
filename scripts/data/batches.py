# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How batches reach a MONAI engine."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.data import MetaTensor


def image_batch(batch: Mapping, device: torch.device | str, non_blocking: bool = False, **kwargs):
    """A pair for MONAI engines: (image on the device, None, (), keyword arguments of the inferer)."""
    image = batch["image"].to(device, non_blocking=non_blocking)
    masks = {"masks": plain(batch["masks"]).to(device)} if "masks" in batch else {}
    return image, None, (), _extra(batch, device) | masks


def _extra(batch: Mapping, device: torch.device | str) -> dict:
    """Keyword arguments of the inferer: a prompt, and the weights of voxels and finer images if the pair has them."""
    tensors = {key: plain(batch[key])[0].to(device) for key in ("weight", "detail") if key in batch}
    return tensors | ({"prompt": batch["prompt"]} if "prompt" in batch else {})


def pair_batch(batch: Mapping, device: torch.device | str, non_blocking: bool = False, **kwargs):
    """A pair with masks for the registration network.

    Returns:
        (B, 4, *shape) moving, fixed, moving mask, fixed mask; and the labels (B, 2, *shape) to measure with, or None.
    """
    image = torch.cat([torch.as_tensor(batch[key]) for key in ("image", "masks")], dim=1)
    labels = torch.as_tensor(batch["labels"]).to(device, non_blocking=non_blocking) if "labels" in batch else None
    return plain(image).to(device, non_blocking=non_blocking), labels


def inference_batch(batch: Mapping, device: torch.device | str, non_blocking: bool = False, **kwargs):
    """One loaded pair with masks, as :func:`image_batch`: a MetaTensor (1, 4, *shape) moving, fixed and their masks."""
    grey = [half.mean(dim=1, keepdim=True) for half in plain(batch["image"]).chunk(2, dim=1)]
    image = torch.cat([*grey, plain(batch["masks"])[None]], dim=1)
    image = MetaTensor(image, affine=batch["image"].affine).to(device, non_blocking=non_blocking)
    return image, None, (), _extra(batch, device)


def training_batch(batch: Mapping, device: torch.device | str, non_blocking: bool = False, **kwargs):
    """The arguments of :class:`scripts.training.network.pairs.PairTraining`; the targets are among them."""
    keys = ("image", "masks", "targets", "spacing")
    inputs = {key: plain(batch[key]).to(device, non_blocking=non_blocking) for key in keys}
    return {**inputs, "name": batch["name"]}, None


def plain(x: torch.Tensor) -> torch.Tensor:
    """A plain tensor; a MetaTensor would track every operation of a loss."""
    return x.as_tensor() if hasattr(x, "as_tensor") else x
