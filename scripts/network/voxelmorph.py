# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""MONAI's VoxelMorph instead of the cross-attention network: the baseline of the comparison."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import VoxelMorphUNet
from torch import Tensor, nn

from ..spatial.warp import integrate
from .pair_network import PairNetwork, Prediction, crop_far


class VoxelMorphNet(PairNetwork):
    """VoxelMorph as a :class:`PairNetwork`.

    It uses the two images only; masks enter, if at all, through the loss.

    Args:
        spatial_dims: 2 or 3.
        structures: number K of structures in the masks, for the loss and the metrics.
        channels: down and up channels of each level alternating, fine to coarse; the paper's by default.
        final_channels: of the convolutions at full resolution before the field.
        integration_steps: squarings of the velocity field; 0 takes the output as a displacement.

    Reference:
        Balakrishnan et al., IEEE TMI 38(8), 2019; ``monai.networks.nets.VoxelMorph``.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        structures: int = 3,
        channels: Sequence[int] = (16, 32, 32, 32, 32, 32),
        final_channels: Sequence[int] = (16, 16),
        integration_steps: int = 7,
    ) -> None:
        super().__init__(spatial_dims, structures, 1, [2 ** (len(channels) // 2)] * spatial_dims)
        self.integration_steps = integration_steps
        backbone = VoxelMorphUNet(spatial_dims, 2, 32, channels, final_channels)
        # Only the backbone of monai.networks.nets.VoxelMorph, under the same names of weights: torch.jit.script cannot
        # compile its Warp.
        self.net = nn.ModuleDict({"backbone": backbone})
        # Training starts from the identity, as in the paper's code; MONAI keeps PyTorch's initial weights.
        last = backbone.net[-1].final_conv_out.conv
        nn.init.normal_(last.weight, std=1e-5)
        nn.init.zeros_(last.bias)

    def compute(self, image: Tensor) -> Prediction:
        """See :class:`PairNetwork`; the only features of a single image are its intensities."""
        moving, fixed = image[:, 0:1], image[:, 1:2]
        # Always float32: half precision cannot distinguish voxel 200 from 201.
        field = self.net["backbone"](self.pad(image[:, :2])).float()
        if self.integration_steps > 0:
            field = integrate(field, self.integration_steps, "zeros")
        return Prediction(crop_far(field, image.shape[2:]), [moving], [fixed])
