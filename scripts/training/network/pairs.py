# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Training the registration network on pairs: a batch goes in, a dict of loss terms comes out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...losses.registration import feature_terms, field_terms
from ...network.pair_network import PairNetwork


class PairTraining(nn.Module):
    """Wraps the network for training, also under ``DistributedDataParallel``, which wants one forward pass.

    Args:
        network: the network to train.
        feature_level: level of the features for the prototype terms, 0 is the finest; None for a network without
            features of each image by itself, whose prototype terms are 0.
        temperature: of the prototype contrast.
        lncc_kernel: window of the local correlation in voxels.
        max_points: of a contour.
        amp: dtype of autocast for the network, e.g. "bfloat16", or None.
    """

    def __init__(
        self,
        network: PairNetwork,
        feature_level: int | None = 1,
        temperature: float = 1.0,
        lncc_kernel: int = 9,
        max_points: int = 1024,
        amp: str | None = None,
    ) -> None:
        super().__init__()
        self.network, self.feature_level, self.temperature = network, feature_level, temperature
        self.lncc_kernel, self.max_points = lncc_kernel, max_points
        self.amp = getattr(torch, amp) if amp else None

    def forward(self, image: Tensor, masks: Tensor, targets: Tensor, spacing: Tensor, name: Sequence[str] = ()):
        """Computes the terms of equation 11, averaged over the batch.

        Args:
            image: (B, 2, *shape) moving and fixed in [0, 1].
            masks: (B, 2, *shape) labels that the network sees.
            targets: (B, 2, *shape) labels that the losses use.
            spacing: (B, n) mm.
            name: of each pair, for messages.

        Returns:
            "lncc", "diffusion", "dice", "contrast", "alignment", "contour".

        Raises:
            FloatingPointError: a term is not a number; names the pair.
        """
        with torch.autocast(image.device.type, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None):
            out = self.network.predict(torch.cat([image, masks], dim=1))
        padded = self.network.pad(targets)
        k = self.network.structures
        terms: dict[str, list[Tensor]] = {}
        for b in range(len(image)):
            ddf, mm = out.ddf[b : b + 1].float(), spacing[b].tolist()
            one = field_terms(ddf, image[b], targets[b], k, mm, self.lncc_kernel, self.max_points)
            if self.feature_level is None:
                one |= {"contrast": ddf.sum() * 0, "alignment": ddf.sum() * 0}
            else:
                features = (f[self.feature_level][b].float() for f in (out.moving, out.fixed))
                one |= feature_terms(*features, padded[b], k, self.temperature)
            bad = [key for key, value in one.items() if not torch.isfinite(value)]
            if bad:
                pair = name[b] if b < len(name) else f"number {b} of the batch"
                raise FloatingPointError(f"The loss of {pair} is not a number ({', '.join(bad)}); the training stops.")
            for key, value in one.items():
                terms.setdefault(key, []).append(value)
        return {key: torch.stack(values).mean() for key, values in terms.items()}
