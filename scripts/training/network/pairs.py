# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The forward pass of a training: pairs in, their fields and features out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from ...losses.pair import LossPair
from ...network.pair_network import PairNetwork


class PairTraining(nn.Module):
    """Wraps the network for training, also under ``DistributedDataParallel``, which needs a single forward pass.

    Args:
        network: the registration network; only its weights are kept after the training.
        amp: dtype of autocast for the network, e.g. "bfloat16", or None.
        head: adds a head that segments the fixed image from its finest features
            (:class:`scripts.losses.segmentation.Segmentation`).
        both_ways: also predicts the field from fixed to moving
            (:class:`scripts.losses.consistency.InverseConsistency`).
    """

    def __init__(
        self, network: PairNetwork, amp: str | None = None, head: bool = False, both_ways: bool = False
    ) -> None:
        super().__init__()
        self.network, self.amp, self.both_ways = network, getattr(torch, amp) if amp else None, both_ways
        conv = Conv[Conv.CONV, network.spatial_dims]
        self.head = conv(network.feature_channels, network.structures + 1, 1) if head else None

    def forward(
        self, image: Tensor, masks: Tensor, targets: Tensor, spacing: Tensor, name: Sequence[str] = ()
    ) -> list[tuple[Tensor, LossPair]]:
        """Registers a batch.

        Args:
            image: (B, 2, *shape) moving and fixed in [0, 1].
            masks: (B, 2, *shape) labels that the network sees.
            targets: (B, 2, *shape) labels for the loss.
            spacing: (B, n) mm.
            name: of each pair, for messages.

        Returns:
            for each pair its field (1, n, *shape) in voxels and what the loss needs, see
            :class:`scripts.losses.registration.RegistrationLoss`.
        """
        with torch.autocast(image.device.type, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None):
            out = self.network.predict(torch.cat([image, masks], dim=1))
            logits = None if self.head is None else self.head(out.fixed[0])
            back = (
                self.network.predict(torch.cat([image.flip(1), masks.flip(1)], dim=1)).ddf if self.both_ways else None
            )
        padded = self.network.pad(targets)
        return [
            (
                out.ddf[b : b + 1].float(),
                LossPair(
                    image[b], targets[b], self.network.structures, spacing[b].tolist(),
                    [(moving[b], fixed[b]) for moving, fixed in zip(out.moving, out.fixed)], padded[b],
                    name[b] if b < len(name) else f"pair {b} of the batch",
                    logits=None if logits is None else logits[b],
                    inverse=None if back is None else back[b : b + 1].float(),
                ),
            )
            for b in range(len(image))
        ]  # fmt: skip
