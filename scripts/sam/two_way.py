# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""segment_anything's two-way transformer for many prompts on one image: same weights, same result, far less work.

A prompt has a handful of tokens, the image hundreds or thousands. The package projects every image token to queries,
keys and values again for every prompt. In the first layer all prompts share one image, so its projections are computed
once. In later layers the projections move to the side of the few tokens (``q . (W x) = (W' q) . x``), so image tokens
are only multiplied by (tokens x heads) vectors. In the final attention to the image each token is independent, so it
is computed only for the tokens that are needed. Tested against ``TwoWayTransformer.forward``; docs/results.md compares
the times of everything mode with those of the package (``python -m scripts.benchmarks.speed.everything``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F


class Projection(NamedTuple):
    """The arguments of ``F.linear``: weight (outputs, inputs) and bias (outputs,)."""

    weight: Tensor
    bias: Tensor


class TokenToImage(NamedTuple):
    """Attention of tokens to the image, with all projections on the side of the tokens.

    Attributes:
        query: from a token to the H vectors of C numbers that image tokens are compared with.
        value: from the H mixtures of image tokens to the update of the token.
    """

    query: Projection
    value: Projection


class ImageToToken(NamedTuple):
    """Attention of the image to the tokens, with all projections on the side of the tokens.

    Attributes:
        key: from a token to the H vectors of C numbers that image tokens are compared with.
        bias: from a token to the H numbers that are added to its scores.
        value: from a token to the H vectors of C numbers that the image tokens average.
    """

    key: Projection
    bias: Projection
    value: Projection


@dataclass(frozen=True, eq=False)
class PromptGroup:
    """A group of b prompts after all layers, before the final attention to the image of most of their tokens.

    Attributes:
        early: (b, t, C) the first tokens, finished.
        queries: (b, T, C) tokens.
        token_pe: (b, T, C) the tokens of the prompts, which are also their positional encoding.
        image: (b, h * w, C) image tokens.
        image_pe: (h * w, C) positional encoding of the image tokens.
        attention: the final attention to the image.
        norm: applied after it.
    """

    early: Tensor
    queries: Tensor
    token_pe: Tensor
    image: Tensor
    image_pe: Tensor
    attention: TokenToImage
    norm: nn.LayerNorm

    def __getitem__(self, index: Tensor) -> PromptGroup:
        """Some of the prompts."""
        return replace(self, **{name: getattr(self, name)[index] for name in ("early", "queries", "token_pe", "image")})

    def tokens(self, chosen: slice) -> Tensor:
        """Some of the tokens after the final attention, (b, t, C)."""
        queries = self.queries[:, chosen]
        image_q = project_tokens(self.attention.query, queries + self.token_pe[:, chosen])
        attended = attend_image(self.image, image_q, self.image_pe)
        return self.norm(queries + token_update(self.attention.value, attended))


@torch.no_grad()
def two_way(
    transformer: TwoWayTransformer, image: Tensor, image_pe: Tensor, tokens: Tensor, early: int, group: int, few: int
) -> Iterator[PromptGroup]:
    """Computes ``transformer(image.expand(B, ...), image_pe.expand(B, ...), tokens)`` in groups of prompts.

    The first attention to the image is computed for all B prompts together; image tokens of a prompt's own exist for
    one group at a time. For inference only: no gradients.

    Args:
        transformer: of any depth.
        image: (C, h, w) embedding plus dense prompt embedding, the same for all prompts.
        image_pe: (C, h, w) positional encoding.
        tokens: (B, T, C) output and prompt tokens.
        early: how many of the first tokens of every prompt are finished at once.
        group: prompts whose tokens are processed together.
        few: prompts of a group whose image tokens are processed together, ideally as many as fit the cache.

    Yields:
        groups of b <= group prompts; ``tokens(slice(None))`` and ``image`` are what the transformer returns.
    """
    keys, position = image.flatten(1).T.contiguous(), image_pe.flatten(1).T.contiguous()
    keys_pe = (keys + position)[None]
    first, *later = transformer.layers
    to_tokens = first.cross_attn_image_to_token
    first_q = heads(to_tokens.q_proj(keys_pe), to_tokens)[0]
    first_value = image_to_token(to_tokens).value
    to_token = [image_to_token(x.cross_attn_image_to_token) for x in later]
    to_image = [token_to_image(layer.cross_attn_token_to_image) for layer in later]
    to_image.append(token_to_image(transformer.final_attn_token_to_image))

    def next_queries(n: int, queries: Tensor, token_pe: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that attend to the image next, and their queries."""
        queries = self_attention(later[n], queries, token_pe) if n < len(later) else queries[:, :early]
        return queries, project_tokens(to_image[n].query, queries + token_pe[:, : queries.shape[1]])

    state = self_attention(first, tokens, tokens)
    q = (state + tokens).flatten(0, 1)[None]  # one long list: the image is the same for all
    state = mlp(first, state + attend(first.cross_attn_token_to_image, q, keys_pe, keys[None]).view_as(state))
    for queries, token_pe in zip(state.split(group), tokens.split(group)):
        group_image = keys.new_empty(len(token_pe), *keys.shape)
        token_k = heads(to_tokens.k_proj(queries + token_pe), to_tokens)
        token_v = F.linear(queries, *first_value).unflatten(2, (token_k.shape[1], -1)).transpose(1, 2).flatten(1, 2)
        attending, image_q = next_queries(0, queries, token_pe)
        attended = []
        for own_image, k, v, q in split(few, group_image, token_k, token_v, image_q):
            update_image(first, own_image, keys.expand_as(own_image), shared_weights(k, first_q), v)
            attended.append(attend_image(own_image, q, position))
        for n, layer in enumerate(later):
            queries = mlp(layer, attending + token_update(to_image[n].value, torch.cat(attended)))
            token_k = project_tokens(to_token[n].key, queries + token_pe)
            token_v = project_tokens(to_token[n].value, queries)
            bias = F.linear(queries + token_pe, *to_token[n].bias).flatten(1)[..., None]
            attending, image_q = next_queries(n + 1, queries, token_pe)
            attended = []
            for own_image, k, b, v, q in split(few, group_image, token_k, bias, token_v, image_q):
                weights = image_weights(own_image + position, k, b, token_pe.shape[1])
                update_image(layer, own_image, own_image, weights, v)
                attended.append(attend_image(own_image, q, position))
        done = transformer.norm_final_attn(attending + token_update(to_image[-1].value, torch.cat(attended)))
        yield PromptGroup(done, queries, token_pe, group_image, position, to_image[-1], transformer.norm_final_attn)


def split(few: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few prompts at a time."""
    return zip(*(t.split(few) for t in tensors))


def self_attention(layer: TwoWayAttentionBlock, queries: Tensor, token_pe: Tensor) -> Tensor:
    """Self-attention among the tokens of each prompt."""
    if layer.skip_first_layer_pe:
        return layer.norm1(attend(layer.self_attn, queries, queries, queries))
    q = queries + token_pe
    return layer.norm1(queries + attend(layer.self_attn, q, q, queries))


def mlp(layer: TwoWayAttentionBlock, queries: Tensor) -> Tensor:
    """Normalisation and MLP, which follow an attention to the image."""
    queries = layer.norm2(queries)
    return layer.norm3(queries + layer.mlp(queries))


def heads(x: Tensor, attention: Attention) -> Tensor:
    """(B, T, D) to (B, H, T, D / H)."""
    return x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)


def attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What ``attention(q, k, v)`` returns, without ever holding all scores."""
    q, k, v = (heads(x, attention) for x in (attention.q_proj(q), attention.k_proj(k), attention.v_proj(v)))
    return attention.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def project_tokens(projection: Projection, tokens: Tensor) -> Tensor:
    """The H vectors of each of the tokens (b, T, C), (b, T * H, C)."""
    return F.linear(tokens, *projection).view(len(tokens), -1, tokens.shape[2])


def attend_image(image: Tensor, q: Tensor, position: Tensor) -> Tensor:
    """Averages (b, T * H, C) of the image tokens (b, N, C), weighted by their attention to queries (b, T * H, C)."""
    return (q @ (image + position).transpose(1, 2)).softmax(dim=-1) @ image


def token_update(value: Projection, attended: Tensor) -> Tensor:
    """The update of tokens, (b, T, C), from the averages (b, T * H, C) of :func:`attend_image`."""
    return F.linear(attended.view(len(attended), -1, value.weight.shape[1]), *value)


def shared_weights(k: Tensor, q: Tensor) -> Tensor:
    """The attention (b, N, H * T) of a shared image, queries (H, N, d), over the tokens of prompts, (b, H, T, d)."""
    k = (k * k.shape[3] ** -0.5).permute(1, 2, 0, 3)
    scores = k.flatten(1, 2) @ q.transpose(1, 2)  # one product per head instead of one per prompt
    return scores.view(*k.shape[:2], -1).softmax(dim=1).view(-1, k.shape[2], scores.shape[2]).permute(1, 2, 0)


def image_weights(image_pe: Tensor, k: Tensor, bias: Tensor, count: int) -> Tensor:
    """The attention (b, N, T * H) of image tokens (b, N, C) over the T = ``count`` tokens of their prompts."""
    scores = torch.baddbmm(bias, k, image_pe.transpose(1, 2))
    return scores.view(len(scores), count, -1).softmax(dim=1).view_as(scores).transpose(1, 2)


def update_image(layer: TwoWayAttentionBlock, image: Tensor, before: Tensor, weights: Tensor, v: Tensor) -> None:
    """Image tokens (b, N, C): those before plus values (b, X, C) averaged with weights (b, N, X), normalised."""
    image.copy_(layer.norm4(torch.baddbmm(before, weights, v)))


def token_to_image(attention: Attention) -> TokenToImage:
    """Moves the projections of an attention of tokens to the image to the side of the tokens."""
    out, v = by_head(attention.out_proj.weight.T, attention), by_head(attention.v_proj.weight, attention)
    value = torch.einsum("hdc,hdi->chi", out, v).flatten(1)
    # The bias of the keys adds the same to every score of a token and cancels in the softmax.
    query = joint_projection(attention, attention.q_proj, attention.k_proj)
    return TokenToImage(query, Projection(value, attention.out_proj(attention.v_proj.bias)))


def image_to_token(attention: Attention) -> ImageToToken:
    """Moves the projections of an attention of the image to tokens to the side of the tokens."""
    out, v = by_head(attention.out_proj.weight.T, attention), by_head(attention.v_proj.weight, attention)
    # The weights of a head sum to one: a bias given to all tokens of one head reaches every image token once.
    bias = torch.einsum("hdc,hd->hc", out, by_head(attention.v_proj.bias, attention))
    bias = bias + attention.out_proj.bias / attention.num_heads
    value = Projection(torch.einsum("hdc,hdi->hci", out, v).flatten(0, 1), bias.flatten())
    q, k = by_head(attention.q_proj.bias, attention), by_head(attention.k_proj.bias, attention)
    weight = torch.einsum("hd,hdi->hi", q, by_head(attention.k_proj.weight, attention))
    scores = Projection(weight * q.shape[1] ** -0.5, (q * k).sum(dim=1) * q.shape[1] ** -0.5)
    return ImageToToken(joint_projection(attention, attention.k_proj, attention.q_proj), scores, value)


def joint_projection(attention: Attention, token: nn.Linear, image: nn.Linear) -> Projection:
    """From a token to the vectors whose products with an image token are the scaled scores of the heads."""
    other = by_head(image.weight, attention) * (len(image.weight) // attention.num_heads) ** -0.5
    weight = torch.einsum("hdc,hdi->hci", other, by_head(token.weight, attention))
    bias = torch.einsum("hdc,hd->hc", other, by_head(token.bias, attention))
    return Projection(weight.flatten(0, 1), bias.flatten())


def by_head(parameter: Tensor, attention: Attention) -> Tensor:
    """(H * d, ...) to (H, d, ...)."""
    return parameter.unflatten(0, (attention.num_heads, -1))
