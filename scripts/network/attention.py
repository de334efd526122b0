# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Attention between two feature maps inside windows: equation 2, with shifted windows and relative position bias.

Works on 2-D and 3-D grids of any size: the last windows are padded, and padded voxels get no attention.
"""

# ruff: noqa: RUF005 (torch.jit.script compiles no star inside a list)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def to_windows(x: Tensor, window: list[int]) -> Tensor:
    """Cuts (B, *shape, C), with sizes divisible by the window, into (B * windows, voxels of a window, C)."""
    n, voxels, split = len(window), 1, [x.shape[0]]
    for size, w in zip(x.shape[1:-1], window):
        split += [size // w, w]
        voxels *= w
    x = x.reshape(split + [x.shape[-1]])
    x = x.permute([0] + [2 * a + 1 for a in range(n)] + [2 * a + 2 for a in range(n)] + [2 * n + 1])
    return x.reshape(-1, voxels, x.shape[-1])


def from_windows(x: Tensor, window: list[int], shape: list[int]) -> Tensor:
    """Inverse of :func:`to_windows`: (B, *shape, C)."""
    n, order = len(window), [0]
    counts = [size // w for size, w in zip(shape, window)]
    for axis in range(1, n + 1):
        order += [axis, axis + n]
    x = x.reshape([-1] + counts + window + [x.shape[-1]]).permute(order + [2 * n + 1])
    return x.reshape([x.shape[0]] + shape + [x.shape[-1]])


class WindowCrossAttention(nn.Module):
    """Multi-head attention of one feature map on another within the same window.

    Args:
        dim: channels.
        heads: number of heads; divides ``dim``.
        window: in voxels along each axis; a shorter axis is one window.
        shifted: the windows start half a window earlier and so cross the borders of the unshifted ones.

    Reference:
        equation 2 of Xu et al., IPMI 2025; windows and bias of Liu et al., ICCV 2021.
    """

    def __init__(self, dim: int, heads: int, window: Sequence[int], shifted: bool) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"The number of heads must divide the channels, got {heads} heads for {dim} channels.")
        self.heads, self.window, self.shifted = heads, list(window), shifted
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.zeros(heads, *[2 * w - 1 for w in window]))

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """Attention (B, *shape, C) of moving features to fixed ones, keys and values, both (B, *shape, C)."""
        shape = [int(s) for s in query.shape[1:-1]]
        window = [min(w, s) for w, s in zip(self.window, shape)]
        front = [w // 2 if self.shifted and s > w else 0 for w, s in zip(window, shape)]
        end = [-(f + s) % w for f, s, w in zip(front, shape, window)]
        padding = [0, 0]
        for f, e in zip(front[::-1], end[::-1]):
            padding += [f, e]
        padded = [f + s + e for f, s, e in zip(front, shape, end)]

        # The maps are cut into windows before the linear layers, which is one copy for keys and values.
        q = self._heads(self.query(to_windows(F.pad(query, padding), window)))
        key, value = self.key_value(to_windows(F.pad(context, padding), window)).chunk(2, dim=-1)
        k, v = self._heads(key), self._heads(value)
        scale = float(q.shape[-1]) ** -0.5
        if sum(padding) > 0:
            # An extra channel, 1 in the queries and a large negative logit in the padded keys, masks the padded voxels
            # without a mask of windows x voxels x voxels. The logit fits half precision.
            inside = F.pad(query.new_ones([1] + shape + [1]), padding)
            penalty = to_windows((1 - inside) * (-1e4 / scale), window)[:, None]
            penalty = penalty.repeat(query.shape[0], 1, 1, 1).expand(-1, self.heads, -1, -1)
            q, k = torch.cat([q, torch.ones_like(q[..., :1])], dim=-1), torch.cat([k, penalty.to(k)], dim=-1)
            v = F.pad(v, [0, 1])  # PyTorch's fused kernel wants as many channels everywhere
        bias = self.position_bias(window)[None].to(q.dtype)
        if q.device.type == "cpu" and torch.is_grad_enabled():
            # PyTorch has no fused kernel on a CPU whose bias is trained, and its fallback takes three times as long.
            x = ((q * scale) @ k.transpose(-1, -2) + bias).softmax(dim=-1) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        x = x[..., : self.query.out_features // self.heads]
        x = from_windows(x.transpose(1, 2).flatten(2), window, padded)
        for axis, size in enumerate(shape):
            x = x.narrow(1 + axis, front[axis], size)
        return self.out(x)

    def _heads(self, x: Tensor) -> Tensor:
        """(windows, heads, voxels, channels of a head) of (windows, voxels, C)."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def position_bias(self, window: list[int]) -> Tensor:
        """Bias (heads, N, N) of each pair of voxels of a window, by their offset."""
        axes = torch.meshgrid([torch.arange(w, device=self.bias.device) for w in window], indexing="ij")
        place = torch.zeros((), dtype=torch.long, device=self.bias.device)
        for axis, full in zip(axes, self.window):
            offset = axis.reshape(-1, 1) - axis.reshape(1, -1) + full - 1
            place = place * (2 * full - 1) + offset
        return self.bias.flatten(1)[:, place]


class CrossAttentionBlock(nn.Module):
    """W-MCA, MLP, SW-MCA, MLP, each with a residual connection.

    Args:
        dim: channels.
        heads: number of heads.
        window: voxels along each axis.
        mlp_ratio: hidden channels of an MLP divided by its channels.

    Reference:
        "Cross-Attention Block", section 3.2 of Xu et al., IPMI 2025.
    """

    def __init__(self, dim: int, heads: int, window: Sequence[int], mlp_ratio: float = 2.0) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.context_norm = nn.LayerNorm(dim)
        self.attention = nn.ModuleList(WindowCrossAttention(dim, heads, window, shifted) for shifted in (False, True))
        self.attention_norm = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
            for _ in range(2)
        )

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """(B, *shape, C) from queries and context of the same shape, channels last."""
        context = self.context_norm(context)
        for attention, norm, mlp in zip(self.attention, self.attention_norm, self.mlp):
            query = query + attention(norm(query), context)
            query = query + mlp(query)
        return query


class FusionAttentionBlock(nn.Module):
    """Image features attend to mask features and vice versa; the two results are averaged.

    The arguments are those of :class:`CrossAttentionBlock`.

    Reference:
        "Fusion Attention Block", section 3.2 of Xu et al., IPMI 2025.
    """

    def __init__(self, dim: int, heads: int, window: Sequence[int], mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.image_asks = CrossAttentionBlock(dim, heads, window, mlp_ratio)
        self.mask_asks = CrossAttentionBlock(dim, heads, window, mlp_ratio)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """(B, *shape, C) from image and mask features of the same shape, channels last."""
        return (self.image_asks(image, mask) + self.mask_asks(mask, image)) / 2
