# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The registration network of section 3.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..spatial.warp import integrate, resize_ddf, warp
from .decoder import FieldLevel
from .encoder import Encoder
from .pair_network import PairNetwork, Prediction, crop_far, multiples, pad_far

HEAD_CHANNELS = 8
COARSE = 2  # levels with a correlation volume
ONE_FIELD = "one_field_weights"  # an entry of weights that were trained with one field


class CrossFusionNet(PairNetwork):
    """Coarse-to-fine registration by cross attention of image and mask features.

    Args:
        spatial_dims: 2 or 3.
        structures: number K of anatomical structures in the masks; their labels are 1 to K.
        channels: of each level, fine to coarse.
        strides: between two levels, a number or one per axis; (2, 2, 1) suits thick slices.
        window: of the attention in voxels, a number or one per axis.
        mlp_ratio: hidden channels of an MLP divided by its channels.
        diffeomorphic: the field is the exponential of the output of the last level (scaling and squaring).
        one_field: also warps the features between levels by the exponential, as the output; otherwise by its argument,
            as the shipped weights for hearts were trained. Only with ``diffeomorphic``. Weights say whether they were
            trained with it (:meth:`adapt_to`).
        correlation: radius in voxels of a correlation volume at the two coarsest levels; 0 for none.
        checkpointing: recomputes the decoder in the backward pass, for less memory and about a third more time.

    Reference:
        section 3.2 of Xu et al., IPMI 2025.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        structures: int = 3,
        channels: Sequence[int] = (8, 16, 32, 64),
        strides: int | Sequence[int] = 2,
        window: int | Sequence[int] = 4,
        mlp_ratio: float = 2.0,
        diffeomorphic: bool = False,
        checkpointing: bool = False,
        one_field: bool = False,
        correlation: int = 0,
    ) -> None:
        step, window = (_per_axis(v, spatial_dims) for v in (strides, window))
        super().__init__(spatial_dims, structures, channels[0], [s ** (len(channels) - 1) for s in step])
        self.diffeomorphic, self.checkpointing, self.one_field = diffeomorphic, checkpointing, one_field
        if one_field:  # its weights must not fit a network without it
            self.register_buffer(ONE_FIELD, torch.ones(()))
        steps = [step] * (len(channels) - 1)
        self.image_encoder = Encoder(spatial_dims, 1, channels, steps)
        self.mask_encoder = Encoder(spatial_dims, structures, channels, steps)
        self.levels = nn.ModuleList(
            FieldLevel(
                spatial_dims,
                c,
                max(1, c // HEAD_CHANNELS),
                window,
                mlp_ratio,
                correlation if number >= len(channels) - COARSE else 0,
            )
            for number, c in enumerate(channels)
        )

    def adapt_to(self, state: Mapping[str, Tensor]) -> None:
        """See :class:`PairNetwork`: weights that were trained with ``one_field`` switch it on."""
        if ONE_FIELD in state and not self.one_field:
            self.one_field = True
            self.register_buffer(ONE_FIELD, torch.ones(()))

    def compute(self, image: Tensor) -> Prediction:
        """See :class:`PairNetwork`."""
        shape = image.shape[2:]
        image = self.pad(image)
        pictures, masks = torch.cat([image[:, 0:1], image[:, 1:2]]), torch.cat([image[:, 2:3], image[:, 3:4]])
        values = torch.arange(1, self.structures + 1, device=image.device).view([1, -1] + [1] * self.spatial_dims)
        pairs = self.image_encoder(pictures)
        mask_pairs = self.mask_encoder((masks.round() == values).to(image.dtype))

        field = torch.zeros(())  # the identity, before the coarsest level
        for step, level in enumerate(self.levels[::-1]):
            moving, fixed = pairs[-1 - step].chunk(2)
            moving_mask, fixed_mask = mask_pairs[-1 - step].chunk(2)
            if step > 0:
                field = resize_ddf(field, moving.shape[2:])
                # Always float32: half precision cannot distinguish voxel 200 from 201.
                carrier = integrate(field) if self.one_field and self.diffeomorphic else field
                both = warp(torch.cat([moving, moving_mask], dim=1).float(), carrier)
                moving, moving_mask = both.chunk(2, dim=1)
            if torch.jit.is_scripting():  # a script cannot call the modules of a slice, only their methods
                residual = level.forward(moving, fixed, moving_mask, fixed_mask)
            elif self.checkpointing:
                residual = checkpoint(level, moving, fixed, moving_mask, fixed_mask, use_reentrant=False)
            else:
                residual = level(moving, fixed, moving_mask, fixed_mask)
            field = field + residual.float() if step > 0 else residual.float()
        if self.diffeomorphic:
            field = integrate(field)
        return Prediction(crop_far(field, shape), [p.chunk(2)[0] for p in pairs], [p.chunk(2)[1] for p in pairs])

    def pad(self, image: Tensor) -> Tensor:
        """Repeats the far borders of an image until every level divides exactly and the coarsest has two voxels."""
        sizes = multiples(image.shape[2:], self.total_stride)
        if sizes == self.total_stride:
            sizes[0] *= 2
        return pad_far(image, sizes)


def _per_axis(value: int | Sequence[int], n: int) -> tuple[int, ...]:
    values = (value,) * n if isinstance(value, int) else tuple(value)
    if len(values) != n or min(values) < 1:
        raise ValueError(f"A {n}-D network needs {n} positive whole numbers, got {value}.")
    return values
