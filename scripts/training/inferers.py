# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How MONAI's engines call a network in training."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn


class KeywordInferer:
    """Passes a batch, a dict, to the network as keyword arguments."""

    def __call__(self, inputs: dict[str, Any], network: nn.Module) -> Any:
        return network(**inputs)


class AutocastInferer(SimpleInferer):
    """Runs the network in a lower precision on any device; MONAI's engines autocast on CUDA only.

    ``amp`` is the dtype of autocast, e.g. "bfloat16", or None.
    """

    def __init__(self, amp: str | None = None) -> None:
        super().__init__()
        self.amp = getattr(torch, amp) if amp else None

    def __call__(self, inputs: Tensor, network: nn.Module, *args, **kwargs) -> Tensor:
        with torch.autocast(inputs.device.type, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None):
            return network(inputs, *args, **kwargs).float()
