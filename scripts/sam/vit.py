# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The blocks of segment_anything's image encoder, a strip of rows at a time: same weights and result, less memory.

The package stores all attention scores of a layer, 800 MB and more for a 1024-pixel image and 12 heads, and the hidden
layers of all MLPs. Windows attend to themselves only and an MLP works on single tokens, so a strip of rows
passes through a whole block while it is in the CPU's cache. In global attention a few rows of queries need all keys but
only their own scores.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos, window_partition, window_unpartition
from torch import Tensor
from torch.nn import functional as F

SCORES = 1 << 22  # attention scores in memory at once: 17 MB; a quarter of that was slower
ROWS = 16  # rows of a strip where there are no windows


class StripBlock(Block):
    """A transformer block of ViTDet."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        side = self.window_size
        if side == 0:
            x = x + self.attn(self.norm1(x))
        done = torch.empty_like(x)
        for rows in strips(x.shape[1], side or ROWS):
            strip = x[:, rows]
            if side:
                # The padding of a window is zero before the projection, so it is the bias alone after it.
                projected = F.linear(self.norm1(strip), self.attn.qkv.weight)
                windows, padded = window_partition(projected, side)
                read = self.attn.mixed(windows + self.attn.qkv.bias)
                strip = strip + self.attn.proj(window_unpartition(read, side, padded, strip.shape[1:3]))
            done[:, rows] = strip + self.mlp(self.norm2(strip))
        return done


class StripAttention(Attention):
    """Multi-head self-attention with the relative position bias of ViTDet."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        return self.proj(self.mixed(self.qkv(x)))

    def mixed(self, projected: Tensor) -> Tensor:
        """Attention output (B, H, W, C) from the queries, keys and values (B, H, W, 3 * C)."""
        batch, height, width, _ = projected.shape
        projected = projected.view(batch, height * width, 3, self.num_heads, -1)
        q, k, v = projected.permute(2, 0, 3, 1, 4).flatten(1, 2)
        asking = q.unflatten(1, (height, width))
        if self.use_rel_pos:
            down = torch.einsum("nrwc,rkc->nrwk", asking, get_rel_pos(height, height, self.rel_pos_h).to(q))
            along = torch.einsum("nrwc,wkc->nrwk", asking, get_rel_pos(width, width, self.rel_pos_w).to(q))
        read = torch.empty_like(v)
        of_a_row = height * width * width  # scores
        for some in strips(len(q), max(1, SCORES // (of_a_row * height))):
            for rows in strips(height, max(1, SCORES // of_a_row)):
                part = slice(rows.start * width, rows.stop * width)
                bias = None
                if self.use_rel_pos:
                    bias = down[some, rows, :, :, None] + along[some, rows, :, None]
                    bias = bias.flatten(3).flatten(1, 2)[None]
                read[some, part] = F.scaled_dot_product_attention(
                    q[None, some, part], k[None, some], v[None, some], attn_mask=bias, scale=self.scale
                )[0]
        return read.unflatten(0, (batch, -1)).unflatten(2, (height, width)).permute(0, 2, 3, 1, 4).flatten(3)


def strips(count: int, few: int) -> list[slice]:
    """Slices of at most ``few`` indices that together cover ``range(count)``."""
    return [slice(first, min(first + few, count)) for first in range(0, count, few)]


def save_memory(sam: Sam) -> Sam:
    """Makes every block of a released image encoder work by strips; other encoders stay unchanged."""
    if isinstance(sam.image_encoder, ImageEncoderViT):
        for block in sam.image_encoder.blocks:
            # Parameters and their names stay the same.
            block.__class__, block.attn.__class__ = StripBlock, StripAttention
    return sam
