# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The attention of segment_anything's image encoder a few rows at a time: same weights, same result, less memory.

The package writes down all scores of a layer, 800 MB and more for a 1024-pixel image and 12 heads. A few rows of
queries need all keys but only their own scores, which then stay in the cache of a CPU.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.image_encoder import Attention, ImageEncoderViT, get_rel_pos
from torch import Tensor

ROWS = 2  # rows of queries at a time; measured: 1 and 4 take half as long again


class RowAttention(Attention):
    """Multi-head self-attention with the relative position bias of ViTDet."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        batch, height, width, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).flatten(1, 2)
        keys = (k * self.scale).transpose(1, 2)
        if self.use_rel_pos:
            down = get_rel_pos(height, height, self.rel_pos_h).to(q)
            along = get_rel_pos(width, width, self.rel_pos_w).to(q)
        read = torch.empty_like(v)
        for first in range(0, height, ROWS):
            rows = slice(first, min(first + ROWS, height))
            part = slice(rows.start * width, rows.stop * width)
            scores = q[:, part] @ keys
            if self.use_rel_pos:
                asking = q[:, part].unflatten(1, (-1, width))
                bias = torch.einsum("brwc,rkc->brwk", asking, down[rows])[..., None]
                by_place = scores.view(*asking.shape[:3], height, width)
                by_place += bias
                by_place += torch.einsum("brwc,wkc->brwk", asking, along)[:, :, :, None]
            read[:, part] = scores.softmax(dim=-1) @ v
        read = read.unflatten(0, (batch, -1)).unflatten(2, (height, width)).permute(0, 2, 3, 1, 4).flatten(3)
        return self.proj(read)


def save_memory(sam: Sam) -> Sam:
    """Gives every attention of a released image encoder the row-wise form; other encoders stay as they are."""
    if isinstance(sam.image_encoder, ImageEncoderViT):
        for block in sam.image_encoder.blocks:
            block.attn.__class__ = RowAttention  # the parameters and their names stay what they are
    return sam
