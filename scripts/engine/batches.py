# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How batches reach a MONAI engine."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def image_batch(batch: Mapping, device: torch.device | str, non_blocking: bool = False, **kwargs):
    """A pair as the engines want it: (image on the device, None, (), further arguments of the inferer)."""
    image = batch["image"].to(device, non_blocking=non_blocking)
    return image, None, (), {"prompt": batch["prompt"]} if "prompt" in batch else {}
