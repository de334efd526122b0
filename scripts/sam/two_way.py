# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""segment_anything's two-way transformer for many prompts on one image: same weights, same result, far less work.

A prompt has a handful of tokens and the image hundreds or thousands. The package projects every image token to keys,
values and queries, anew for every prompt. In the first layer all prompts still see one image: its projections are
made once. Later they move to the side of the few tokens (``q . (W x) = (W' q) . x``), so that image tokens are only
multiplied with (heads x tokens) vectors. Tested against ``TwoWayTransformer.forward``.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention
from torch import Tensor


def two_way(transformer: TwoWayTransformer, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What ``transformer(image.expand(B, ...), image_pe.expand(B, ...), tokens)`` returns.

    Args:
        transformer: of any depth.
        image: (C, h, w) embedding plus dense prompt embedding, the same for all prompts.
        image_pe: (C, h, w) positional encoding.
        tokens: (B, T, C) output and prompt tokens.

    Returns:
        tokens (B, T, C) and image tokens (B, h * w, C).
    """
    keys, place = image.flatten(1).T[None], image_pe.flatten(1).T
    queries = tokens
    for layer in transformer.layers:
        placed = keys + place
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            asking = queries + tokens
            queries = queries + layer.self_attn(q=asking, k=asking, v=queries)
        queries = layer.norm1(queries)
        queries = layer.norm2(queries + read_image(layer.cross_attn_token_to_image, queries + tokens, placed, keys))
        queries = layer.norm3(queries + layer.mlp(queries))
        keys = layer.norm4(read_tokens(layer.cross_attn_image_to_token, placed, queries + tokens, queries, keys))
    attention = transformer.final_attn_token_to_image
    queries = queries + read_image(attention, queries + tokens, keys + place, keys)
    return transformer.norm_final_attn(queries), keys


def heads(x: Tensor, attention: Attention) -> Tensor:
    """(B, T, D) to (B, H, T, D / H), or a weight (D, C) to (H, D / H, C)."""
    if x.ndim == 2:
        return x.unflatten(0, (attention.num_heads, -1))
    return x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)


def read_image(attention: Attention, asking: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """Tokens attend to the image.

    Args:
        attention: with ``downsample_rate`` any.
        asking: (B, T, C) queries with their encoding.
        placed: (B or 1, N, C) image tokens with the positional encoding: the keys.
        image: (B or 1, N, C) image tokens: the values.

    Returns:
        (B, T, C).
    """
    q = heads(attention.q_proj(asking), attention) / (attention.internal_dim // attention.num_heads) ** 0.5
    if len(image) == 1:
        k, v = heads(attention.k_proj(placed), attention)[0], heads(attention.v_proj(image), attention)[0]
        together = q.transpose(0, 1).flatten(1, 2)  # (H, B * T, d): one product a head instead of one a prompt
        mixed = ((together @ k.transpose(1, 2)).softmax(dim=-1) @ v).unflatten(1, (len(q), -1)).permute(1, 2, 0, 3)
        return attention.out_proj(mixed.flatten(2))
    # The bias of the keys adds the same to every score of a query and cancels in the softmax.
    probes = torch.einsum("bhtd,hdc->bhtc", q, heads(attention.k_proj.weight, attention))
    weights = (probes.flatten(1, 2) @ placed.transpose(1, 2)).softmax(dim=-1)
    context = (weights @ image).unflatten(1, q.shape[1:3])
    mixed = torch.einsum("bhtc,hdc->bthd", context, heads(attention.v_proj.weight, attention)).flatten(2)
    return attention.out_proj(mixed + attention.v_proj.bias)


def read_tokens(attention: Attention, placed: Tensor, keys: Tensor, values: Tensor, image: Tensor) -> Tensor:
    """The image attends to the tokens; returns the image tokens plus what they read, (B, N, C).

    Args:
        attention: with ``downsample_rate`` any.
        placed: (B or 1, N, C) image tokens with the positional encoding: the queries.
        keys: (B, T, C) tokens with their encoding.
        values: (B, T, C) tokens.
        image: (B or 1, N, C) image tokens.
    """
    k = heads(attention.k_proj(keys), attention) / (attention.internal_dim // attention.num_heads) ** 0.5
    v = heads(attention.v_proj(values), attention)
    if len(image) == 1:
        q = heads(attention.q_proj(placed), attention)[0]
        together = k.transpose(0, 1).flatten(1, 2)
        scores = (together @ q.transpose(1, 2)).unflatten(1, (len(k), -1)).transpose(0, 1)
    else:
        probes = torch.einsum("bhtd,hdc->bhtc", k, heads(attention.q_proj.weight, attention)).flatten(1, 2)
        constant = torch.einsum("bhtd,hd->bht", k, attention.q_proj.bias.unflatten(0, (attention.num_heads, -1)))
        scores = torch.baddbmm(constant.flatten(1)[..., None], probes, placed.transpose(1, 2)).unflatten(
            1, k.shape[1:3]
        )
    weights = scores.softmax(dim=2).flatten(1, 2)
    written = torch.einsum("bhtd,chd->bhtc", v, attention.out_proj.weight.unflatten(1, (attention.num_heads, -1)))
    # The weights of a head sum to one, so a bias given to the tokens of one head reaches every image token once.
    written = torch.cat([written[:, :1] + attention.out_proj.bias, written[:, 1:]], dim=1)
    return torch.baddbmm(image.expand(len(k), -1, -1), weights.transpose(1, 2), written.flatten(1, 2))
