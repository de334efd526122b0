# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""segment_anything's two-way transformer for many prompts on one image: same weights, same result, far less work.

A prompt has a handful of tokens and the image hundreds or thousands. The package projects every image token to keys,
values and queries, anew for every prompt. In the first layer all prompts still see one image: its projections are
made once. Later they move to the side of the few tokens (``q . (W x) = (W' q) . x``), so that image tokens are only
multiplied with (heads x tokens) vectors. Tested against ``TwoWayTransformer.forward``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor


@torch.no_grad()
def two_way(
    transformer: TwoWayTransformer, image: Tensor, image_pe: Tensor, tokens: Tensor, group: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """What ``transformer(image.expand(B, ...), image_pe.expand(B, ...), tokens)`` returns, in groups of prompts.

    The first reading of the image is done for all B prompts together; image tokens of a prompt's own exist for one
    group at a time. For inference only: no gradients.

    Args:
        transformer: of any depth.
        image: (C, h, w) embedding plus dense prompt embedding, the same for all prompts.
        image_pe: (C, h, w) positional encoding.
        tokens: (B, T, C) output and prompt tokens.
        group: prompts to a group.

    Yields:
        tokens (b, T, C) and image tokens (b, h * w, C) of each group of b <= group prompts.
    """
    keys, place = image.flatten(1).T[None], image_pe.flatten(1).T
    first, *later = transformer.layers
    placed = keys + place
    everyone = read_layer(first, tokens, tokens, keys, placed, shared=True)
    asking = heads(first.cross_attn_image_to_token.q_proj(placed), first.cross_attn_image_to_token)[0]
    # Large blocks go back to the system when they are freed, and getting them again costs as much as the arithmetic.
    room = keys.new_empty(2, min(group, len(tokens)), *keys.shape[1:])
    for queries, own in zip(everyone.split(group), tokens.split(group)):
        seen, placed = room[:, : len(own)]
        seen = write_layer(first, queries, own, seen.copy_(keys), placed, asking)
        for layer in later:
            torch.add(seen, place, out=placed)
            queries = read_layer(layer, queries, own, seen, placed, shared=False)
            seen = write_layer(layer, queries, own, seen, placed, None)
        attention = transformer.final_attn_token_to_image
        queries = queries + read_image(attention, queries + own, torch.add(seen, place, out=placed), seen, shared=False)
        yield transformer.norm_final_attn(queries), seen


def read_layer(
    layer: TwoWayAttentionBlock, queries: Tensor, own: Tensor, keys: Tensor, placed: Tensor, shared: bool
) -> Tensor:
    """The half of a layer that changes the tokens: among themselves, then from the image, then the MLP."""
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        asking = queries + own
        queries = queries + layer.self_attn(q=asking, k=asking, v=queries)
    queries = layer.norm1(queries)
    queries = layer.norm2(queries + read_image(layer.cross_attn_token_to_image, queries + own, placed, keys, shared))
    return layer.norm3(queries + layer.mlp(queries))


def write_layer(
    layer: TwoWayAttentionBlock, queries: Tensor, own: Tensor, keys: Tensor, placed: Tensor, asking: Tensor | None
) -> Tensor:
    """The half of a layer that changes the image tokens."""
    return layer.norm4(read_tokens(layer.cross_attn_image_to_token, placed, queries + own, queries, keys, asking))


def heads(x: Tensor, attention: Attention) -> Tensor:
    """(B, T, D) to (B, H, T, D / H), or a weight (D, C) to (H, D / H, C)."""
    if x.ndim == 2:
        return x.unflatten(0, (attention.num_heads, -1))
    return x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)


def read_image(attention: Attention, asking: Tensor, placed: Tensor, image: Tensor, shared: bool) -> Tensor:
    """Tokens attend to the image.

    Args:
        attention: with ``downsample_rate`` any.
        asking: (B, T, C) queries with their encoding.
        placed: (B or 1, N, C) image tokens with the positional encoding: the keys.
        image: (B or 1, N, C) image tokens: the values.
        shared: all prompts read one image, (1, N, C).

    Returns:
        (B, T, C).
    """
    q = heads(attention.q_proj(asking), attention) / (attention.internal_dim // attention.num_heads) ** 0.5
    if shared:
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


def read_tokens(
    attention: Attention, placed: Tensor, keys: Tensor, values: Tensor, image: Tensor, asking: Tensor | None
) -> Tensor:
    """The image attends to the tokens; returns the image tokens plus what they read, (B, N, C).

    Args:
        attention: with ``downsample_rate`` any.
        placed: (B, N, C) image tokens with the positional encoding: the queries; not looked at if ``asking`` is given.
        keys: (B, T, C) tokens with their encoding.
        values: (B, T, C) tokens.
        image: (B, N, C) image tokens, which are overwritten.
        asking: (H, N, d) the queries of an image that all prompts still share, made once; None where they differ.
    """
    k = heads(attention.k_proj(keys), attention) / (attention.internal_dim // attention.num_heads) ** 0.5
    v = heads(attention.v_proj(values), attention)
    if asking is not None:
        together = k.transpose(0, 1).flatten(1, 2)
        scores = (together @ asking.transpose(1, 2)).unflatten(1, (len(k), -1)).transpose(0, 1)
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
    return image.baddbmm_(weights.transpose(1, 2), written.flatten(1, 2))
