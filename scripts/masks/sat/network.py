# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The network of SAT: a 3-D U-Net, and a decoder that turns prompt embeddings into masks.

Zhao et al., "Large-vocabulary segmentation for medical images with text prompts", npj Digital Medicine 2025. Modules
are named as in the released checkpoints; a test compares the logits with those of the original.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

QUERY, LAYERS = 768, 6  # channels of prompts and of the attention; layers of the prompt decoder


@dataclass(frozen=True)
class SATSize:
    """Parameters that differ between the released sizes.

    Attributes:
        features: channels of the stages of the U-Net.
        convs: convolutions in a stage.
        memory: hidden channels of the projection of image features.
        mask: hidden channels of the projection of mask embeddings.
    """

    features: tuple[int, ...]
    convs: int
    memory: int
    mask: int


SIZES = {
    "nano": SATSize((64, 64, 128, 256, 512, 768), 2, 768, 256),
    "pro": SATSize((128, 128, 256, 512, 1024, 1536), 3, 1536, 384),
}
REDUCTION = 32  # of the coarsest stage; windows are multiples of it


class ConvBlock(nn.Module):
    """Convolution, instance norm, LeakyReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, stride, padding=1)
        self.norm = nn.InstanceNorm3d(outputs, eps=1e-5, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), 0.01)


class ConvStack(nn.Module):
    """Convolution blocks in a row; the first has the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, count: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *[ConvBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1) for i in range(count)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


class Encoder(nn.Module):
    """Stages at resolutions 1, 1/2, ..., 1/32."""

    def __init__(self, size: SATSize) -> None:
        super().__init__()
        inputs = (3, *size.features[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(ConvStack(i, o, 1 if n == 0 else 2, size.convs))
            for n, (i, o) in enumerate(zip(inputs, size.features))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """Upsamples, joins the skip, convolves; back to full resolution."""

    def __init__(self, size: SATSize) -> None:
        super().__init__()
        steps = list(zip(size.features[:0:-1], size.features[-2::-1]))
        self.stages = nn.ModuleList(ConvStack(2 * fine, fine, 1, size.convs) for _, fine in steps)
        self.transpconvs = nn.ModuleList(nn.ConvTranspose3d(coarse, fine, 2, 2) for coarse, fine in steps)

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        for up, stage, skip in zip(self.transpconvs, self.stages, maps[-2::-1]):
            x = stage(torch.cat([up(x), skip], dim=1))
        return x


class QueryLayer(nn.Module):
    """Prompts attend to the image, then a feed-forward layer; pre-norm. ``norm1`` is unused but in the checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(QUERY, 8)
        self.linear1, self.linear2 = nn.Linear(QUERY, 2048), nn.Linear(2048, QUERY)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(QUERY), nn.LayerNorm(QUERY), nn.LayerNorm(QUERY)

    def forward(self, queries: Tensor, memory: Tensor, place: Tensor) -> Tensor:
        looked, _ = self.multihead_attn(self.norm2(queries), memory + place, memory, need_weights=False)
        queries = queries + looked
        return queries + self.linear2(F.relu(self.linear1(self.norm3(queries))))


class SAT(nn.Module):
    """SAT without its text encoder.

    Args:
        size: "nano" or "pro".
        query_batch: prompts decoded at once.
    """

    def __init__(self, size: str = "nano", query_batch: int = 32) -> None:
        super().__init__()
        sizes = SIZES[size]
        self.query_batch = query_batch
        self.backbone = nn.ModuleDict({"encoder": Encoder(sizes), "decoder": Decoder(sizes)})
        self.projection_layer = nn.Sequential(
            nn.Linear(sum(sizes.features), sizes.memory), nn.GELU(), nn.Linear(sizes.memory, QUERY), nn.GELU()
        )
        layers = nn.ModuleList(QueryLayer() for _ in range(LAYERS))
        self.transformer_decoder = nn.ModuleDict({"layers": layers, "norm": nn.LayerNorm(QUERY)})
        self.mask_embed_proj = nn.Sequential(
            nn.Linear(QUERY, sizes.mask), nn.GELU(), nn.Linear(sizes.mask, sizes.features[0]), nn.GELU()
        )

    def forward(self, image: Tensor, queries: Tensor) -> Tensor:
        """Logits of every prompt.

        Args:
            image: (B, 3, X, Y, Z), sides multiples of 32.
            queries: (N, 768) embedded prompts.

        Returns:
            (B, N, X, Y, Z) logits.

        Raises:
            ValueError: another shape.
        """
        if image.ndim != 5 or image.shape[1] != 3 or any(s % REDUCTION for s in image.shape[2:]):
            raise ValueError(f"image must be (B, 3, X, Y, Z) with sides that 32 divides, got {tuple(image.shape)}.")
        maps = self.backbone["encoder"](image)
        fine = self.backbone["decoder"](maps)
        pooled = [F.avg_pool3d(m, REDUCTION >> n) if n < 5 else m for n, m in enumerate(maps)]
        memory = self.projection_layer(torch.cat(pooled, dim=1).movedim(1, -1))
        place = position_code(memory.shape[1:4], QUERY).to(memory).flatten(0, 2)[:, None]
        memory = memory.flatten(1, 3).transpose(0, 1)
        parts = []
        for some in queries.to(memory.dtype).split(self.query_batch):
            some = some[:, None].expand(-1, len(image), -1)
            for layer in self.transformer_decoder["layers"]:
                some = layer(some, memory, place)
            embedded = self.mask_embed_proj(self.transformer_decoder["norm"](some))
            parts.append(torch.einsum("nbc,bcxyz->bnxyz", embedded, fine))
        return torch.cat(parts, dim=1)


def position_code(shape: tuple[int, int, int], channels: int) -> Tensor:
    """Sinusoidal position code of a grid: a share of the channels for each axis, sine and cosine alternating.

    As in the package ``positional-encodings`` (PositionalEncoding3D).

    Returns:
        (*shape, channels).
    """
    share = 2 * math.ceil(channels / 6)
    rates = 10000.0 ** (-torch.arange(0, share, 2).float() / share)
    codes = []
    for axis, length in enumerate(shape):
        angle = torch.arange(length).float()[:, None] * rates
        code = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
        view = [1, 1, 1, share]
        view[axis] = length
        codes.append(code.view(view).expand(*shape, share))
    return torch.cat(codes, dim=-1)[..., :channels]


def clean_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict with our keys: no data-parallel prefix, and each tensor under one name.

    ``...all_modules.0`` and ``.1`` are second names of ``conv`` and ``norm``; the later entry wins, as in torch.
    """
    names = {".all_modules.0.": ".conv.", ".all_modules.1.": ".norm."}
    return {re.sub(r"\.all_modules\.[01]\.", lambda m: names[m[0]], k.removeprefix("module.")): state[k] for k in state}
