# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The bundled segmentation networks: structures, input grid and architecture.

The architecture is MONAI's ``DynUNet`` (nnU-Net, Isensee et al., Nature Methods 18, 2021) at a compact size.
"""

from __future__ import annotations

from dataclasses import dataclass

from monai.networks.nets import DynUNet

from ..common.errors import InputError


@dataclass(frozen=True)
class NetSpec:
    """One bundled network.

    Attributes:
        names: structures, in the order of the output channels after the background.
        modality: "mr" or "ct", also the name of the intensity window.
        layout: see :func:`scripts.masks.grid.arranged`.
        spacing_mm: voxel size of the network's grid; None keeps that of the image.
        patch: voxels of a training patch and of the sliding window.
        filters: channels of each level.
        kernels: kernel of each level.
        strides: stride into each level.
        focus: axes of a second pass on one window around the organ that the first pass found, because training patches
            are centred on the organ and the windows of a whole image are not.
        flips: axes along which the image can be mirrored (all together) and the two predictions averaged.
        redrawn: structures that LiteMedSAM segments better than the network on training subjects; see docs/masks.md.
    """

    names: tuple[str, ...]
    modality: str
    layout: str
    spacing_mm: tuple[float | None, float | None, float | None]
    patch: tuple[int, int, int]
    filters: tuple[int, ...]
    kernels: tuple[tuple[int, int, int], ...]
    strides: tuple[tuple[int, int, int], ...]
    focus: tuple[int, ...] = ()
    flips: tuple[int, ...] = ()
    redrawn: tuple[str, ...] = ()


_FLAT, _CUBE = (3, 3, 1), (3, 3, 3)

NETS = {
    # Slices are 5 to 10 mm apart: the fine levels are 2-D, the coarse ones 3-D.
    "cardiac": NetSpec(
        names=("right ventricle cavity", "myocardium", "left ventricle cavity"),
        modality="mr",
        layout="slices",
        spacing_mm=(1.5, 1.5, None),
        patch=(112, 112, 8),
        filters=(16, 32, 64, 96, 128),
        kernels=(_FLAT, _FLAT, _FLAT, _CUBE, _CUBE),
        strides=((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1)),
        focus=(0, 1),
        flips=(0, 1),
    ),
    "abdomen": NetSpec(
        names=(
            "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
            "inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland",
            "left adrenal gland",
        ),
        modality="ct",
        layout="LPS",
        spacing_mm=(3.0, 3.0, 3.0),  # trained from weights at 4 mm, where a patch contains nearly all organs
        patch=(80, 80, 64),
        filters=(8, 32, 64, 128, 160),
        kernels=(_CUBE,) * 5,
        strides=((1, 1, 1),) + ((2, 2, 2),) * 4,
        redrawn=("gallbladder", "aorta"),
    ),
}  # fmt: skip


def net_spec(name: str) -> NetSpec:
    """The specification of a bundled network."""
    if name not in NETS:
        raise InputError(f"There is no bundled network {name!r}; choose one of {', '.join(NETS)}.")
    return NETS[name]


def build_net(name: str, heads: int = 0) -> DynUNet:
    """A bundled network with random weights: (B, 1, X, Y, Z) in [0, 1] to logits (B, 1 + structures, X, Y, Z).

    Args:
        name: key of ``NETS``.
        heads: coarser decoder levels that also predict the labels in training mode, for deep supervision; the output is
            then (B, 1 + heads, 1 + structures, X, Y, Z), the network's own first. Evaluation does not use them.
    """
    spec = net_spec(name)
    most = len(spec.strides) - 2
    if not 0 <= heads <= most:
        raise InputError(f"Deep supervision of {heads} levels is not possible; {name} has 0 to {most} coarser levels.")
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=1 + len(spec.names),
        kernel_size=spec.kernels,
        strides=spec.strides,
        upsample_kernel_size=spec.strides[1:],
        filters=spec.filters,
        norm_name=("instance", {"affine": True}),
        deep_supervision=heads > 0,
        deep_supr_num=max(heads, 1),
    )
