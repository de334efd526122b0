# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Compact SAM: a small convolution-attention encoder under segment_anything's prompt encoder and mask decoder.

The time of everything mode on a CPU depends on the number of image tokens that the decoder attends to, not on the
encoder, so the token grid is a separate parameter (``tokens``), independent of the strides of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with group normalisation and a skip; ``stride`` 2 halves the map.

    Shape:
        - Input: (B, C_in, H, W). Output: (B, C_out, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.GroupNorm(GROUPS, out_channels),
            nn.GELU(),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.GroupNorm(GROUPS, out_channels),
        )
        changes = stride != 1 or in_channels != out_channels
        self.skip = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.skip(x) + self.body(x))


class CompactEncoder(nn.Module):
    """Image encoder: four residual stages (strides 2, 4, 8, 16), self-attention at stride 16, and a multi-scale neck.

    Args:
        img_size: side of the square input, a multiple of 16 (``Sam`` reads this attribute).
        tokens: side of the square embedding that the mask decoder works on; masks come out at four times this.
        embed_dim: channels of the embedding.
        channels: channels of the four stages, multiples of 8.
        depths: residual blocks of the four stages.
        attention_depth: self-attention layers after the last stage.

    Shape:
        - Input: (B, 3, img_size, img_size), normalised by ``Sam.preprocess``.
        - Output: (B, embed_dim, tokens, tokens).
    """

    def __init__(
        self,
        img_size: int = 256,
        tokens: int = 24,
        embed_dim: int = 128,
        channels: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (1, 2, 2, 2),
        attention_depth: int = 2,
    ) -> None:
        super().__init__()
        if img_size % 16:
            raise ValueError(f"img_size must be a multiple of 16, got {img_size}.")
        self.img_size, self.tokens = img_size, tokens
        self.stages = nn.ModuleList(
            nn.Sequential(ResidualBlock(entry, width, 2), *(ResidualBlock(width, width) for _ in range(depth - 1)))
            for entry, width, depth in zip((3, *channels), channels, depths)
        )
        self.position = nn.Parameter(torch.zeros(1, (img_size // 16) ** 2, channels[-1]))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.attention = nn.ModuleList(
            nn.TransformerEncoderLayer(
                channels[-1], 8, 4 * channels[-1], dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(attention_depth)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, embed_dim, 1) for c in channels[1:])
        self.neck = nn.Sequential(nn.Conv2d(embed_dim, embed_dim, 3, padding=1, bias=False), LayerNorm2d(embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        sequence = x.flatten(2).transpose(1, 2) + self.position
        for layer in self.attention:
            sequence = layer(sequence)
        maps[-1] = sequence.transpose(1, 2).reshape(x.shape)
        return self.neck(sum(to_grid(lateral(m), self.tokens) for lateral, m in zip(self.lateral, maps[1:])))


def to_grid(x: Tensor, tokens: int) -> Tensor:
    """Resizes maps (B, C, H, W) to (B, C, tokens, tokens), by averaging if they shrink."""
    if x.shape[-1] >= tokens:
        return F.adaptive_avg_pool2d(x, (tokens, tokens))
    return F.interpolate(x, (tokens, tokens), mode="bilinear", align_corners=False)


def compact_sam(img_size: int = 256, tokens: int = 24, embed_dim: int = 128, mlp_dim: int = 512, **encoder) -> Sam:
    """Builds the compact SAM with random weights; it works in segment_anything's own predictor and mask generator.

    Args:
        img_size: side of the square input in pixels.
        tokens: side of the embedding; low-resolution masks have four times this.
        embed_dim: channels of the embedding and width of the decoder.
        mlp_dim: hidden width of the decoder's MLPs.
        encoder: further arguments of :class:`CompactEncoder`.
    """
    return Sam(
        CompactEncoder(img_size, tokens, embed_dim, **encoder), *prompt_and_mask(img_size, tokens, embed_dim, mlp_dim)
    )


def prompt_and_mask(img_size: int, tokens: int, embed_dim: int, mlp_dim: int) -> tuple[PromptEncoder, MaskDecoder]:
    """segment_anything's prompt encoder and mask decoder; the arguments are those of :func:`compact_sam`."""
    return (
        PromptEncoder(embed_dim, (tokens, tokens), (img_size, img_size), mask_in_chans=16),
        MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=embed_dim, mlp_dim=mlp_dim, num_heads=8),
            transformer_dim=embed_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=embed_dim,
        ),
    )
