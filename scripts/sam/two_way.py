# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""segment_anything's two-way transformer for many prompts on one image: same weights, same result, far less work.

A prompt has a handful of tokens and the image hundreds or thousands. The package projects every image token to keys,
values and queries again for every prompt. In the first layer all prompts still see one image, whose projections are
computed once. Later ones move to the side of the few tokens (``q . (W x) = (W' q) . x``), so that image tokens are only
multiplied with (tokens x heads) vectors. In the last attention to the image every token stands for itself; the caller
computes it for the tokens that are worth it. Tested against ``TwoWayTransformer.forward``; docs/results.md has the
seconds of everything mode beside those of the package (``python -m scripts.benchmarks.speed.everything``).
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


class Reading(NamedTuple):
    """Tokens attend to the image, all projections on the side of the tokens.

    Attributes:
        ask: a token to the H vectors of C numbers that image tokens are compared with.
        tell: the H mixtures of image tokens to the update of the token.
    """

    ask: Projection
    tell: Projection


class Writing(NamedTuple):
    """The image attends to the tokens, all projections on the side of the tokens.

    Attributes:
        ask: a token to the H vectors of C numbers that image tokens are compared with.
        offset: a token to the H numbers that are added to its comparisons.
        tell: a token to the H vectors of C numbers that the image tokens mix.
    """

    ask: Projection
    offset: Projection
    tell: Projection


@dataclass(frozen=True, eq=False)
class ReadyPrompts:
    """A group of b prompts after all layers, before most of their tokens read the image for the last time.

    Attributes:
        early: (b, t, C) the first tokens, finished.
        queries: (b, T, C) tokens.
        own: (b, T, C) tokens as they came, their encoding.
        image: (b, h * w, C) image tokens.
        place: (h * w, C) positional encoding of the image tokens.
        reading: the last one.
        norm: applied after the last reading.
    """

    early: Tensor
    queries: Tensor
    own: Tensor
    image: Tensor
    place: Tensor
    reading: Reading
    norm: nn.LayerNorm

    def __getitem__(self, index: Tensor) -> ReadyPrompts:
        """Some of the prompts."""
        return replace(self, **{name: getattr(self, name)[index] for name in ("early", "queries", "own", "image")})

    def tokens(self, chosen: slice) -> Tensor:
        """Some of the tokens after the last reading, (b, t, C)."""
        queries = self.queries[:, chosen]
        mixed = mix(self.image, probing(self.reading.ask, queries + self.own[:, chosen]), self.place)
        return self.norm(queries + learn(self.reading.tell, mixed))


@torch.no_grad()
def two_way(
    transformer: TwoWayTransformer, image: Tensor, image_pe: Tensor, tokens: Tensor, early: int, group: int, few: int
) -> Iterator[ReadyPrompts]:
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
        few: prompts of a group whose image tokens are processed together, best as many as fit the cache.

    Yields:
        groups of b <= group prompts; ``tokens(slice(None))`` and ``image`` are what the transformer returns.
    """
    keys, place = image.flatten(1).T.contiguous(), image_pe.flatten(1).T.contiguous()
    placed = (keys + place)[None]
    first, *later = transformer.layers
    to_tokens = first.cross_attn_image_to_token
    inquiring = heads(to_tokens.q_proj(placed), to_tokens)[0]
    told_first, writings = writing(to_tokens).tell, [writing(layer.cross_attn_image_to_token) for layer in later]
    readings = [reading(layer.cross_attn_token_to_image) for layer in later]
    readings.append(reading(transformer.final_attn_token_to_image))

    def ask(n: int, queries: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that attend to the image next, and their queries."""
        queries = converse(later[n], queries, own) if n < len(later) else queries[:, :early]
        return queries, probing(readings[n].ask, queries + own[:, : queries.shape[1]])

    started = converse(first, tokens, tokens)
    asking = (started + tokens).flatten(0, 1)[None]  # one long list: the image is the same for all
    learnt = attend(first.cross_attn_token_to_image, asking, placed, keys[None]).view_as(started)
    started = think(first, started + learnt)
    for queries, own in zip(started.split(group), tokens.split(group)):
        seen = keys.new_empty(len(own), *keys.shape)
        k = heads(to_tokens.k_proj(queries + own), to_tokens)
        news = F.linear(queries, *told_first).unflatten(2, (k.shape[1], -1)).transpose(1, 2).flatten(1, 2)
        readers, probes = ask(0, queries, own)
        mixed = []
        for own_image, some, told, sought in split(few, seen, k, news, probes):
            write(first, own_image, keys.expand_as(own_image), first_shares(some, inquiring), told)
            mixed.append(mix(own_image, sought, place))
        for n, layer in enumerate(later):
            queries = think(layer, readers + learn(readings[n].tell, torch.cat(mixed)))
            asked, news = probing(writings[n].ask, queries + own), probing(writings[n].tell, queries)
            offset = F.linear(queries + own, *writings[n].offset).flatten(1)[..., None]
            readers, probes = ask(n + 1, queries, own)
            mixed = []
            for own_image, some, constant, told, sought in split(few, seen, asked, offset, news, probes):
                weights = shares(own_image + place, some, constant, own.shape[1])
                write(layer, own_image, own_image, weights, told)
                mixed.append(mix(own_image, sought, place))
        done = transformer.norm_final_attn(readers + learn(readings[-1].tell, torch.cat(mixed)))
        yield ReadyPrompts(done, queries, own, seen, place, readings[-1], transformer.norm_final_attn)


def split(few: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few prompts at a time."""
    return zip(*(t.split(few) for t in tensors))


def converse(layer: TwoWayAttentionBlock, queries: Tensor, own: Tensor) -> Tensor:
    """The tokens of a prompt attend to each other."""
    if layer.skip_first_layer_pe:
        return layer.norm1(attend(layer.self_attn, queries, queries, queries))
    asking = queries + own
    return layer.norm1(queries + attend(layer.self_attn, asking, asking, queries))


def think(layer: TwoWayAttentionBlock, queries: Tensor) -> Tensor:
    """What follows a reading of the image: normalisation and the perceptron."""
    queries = layer.norm2(queries)
    return layer.norm3(queries + layer.mlp(queries))


def heads(x: Tensor, attention: Attention) -> Tensor:
    """(B, T, D) to (B, H, T, D / H)."""
    return x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)


def attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What ``attention(q, k, v)`` returns, without ever holding all scores."""
    q, k, v = (
        heads(project(x), attention)
        for project, x in ((attention.q_proj, q), (attention.k_proj, k), (attention.v_proj, v))
    )
    return attention.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def probing(ask: Projection, tokens: Tensor) -> Tensor:
    """The vectors of tokens (b, T, C) that image tokens are compared with, (b, T * H, C)."""
    return F.linear(tokens, *ask).view(len(tokens), -1, tokens.shape[2])


def mix(image: Tensor, probes: Tensor, place: Tensor) -> Tensor:
    """Mixtures (b, T * H, C) of the image tokens (b, N, C) that resemble each of the probes (b, T * H, C)."""
    return (probes @ (image + place).transpose(1, 2)).softmax(dim=-1) @ image


def learn(tell: Projection, mixed: Tensor) -> Tensor:
    """The update of tokens, (b, T, C), from the mixtures (b, T * H, C) that they attend to."""
    return F.linear(mixed.view(len(mixed), -1, tell.weight.shape[1]), *tell)


def first_shares(k: Tensor, inquiring: Tensor) -> Tensor:
    """The attention (b, N, H * T) of a shared image, queries (H, N, d), over the tokens of prompts, (b, H, T, d)."""
    k = (k * k.shape[3] ** -0.5).permute(1, 2, 0, 3)
    scores = k.flatten(1, 2) @ inquiring.transpose(1, 2)  # one product a head instead of one a prompt
    return scores.view(*k.shape[:2], -1).softmax(dim=1).view(-1, k.shape[2], scores.shape[2]).permute(1, 2, 0)


def shares(placed: Tensor, probes: Tensor, offset: Tensor, count: int) -> Tensor:
    """The attention (b, N, T * H) of image tokens (b, N, C) over the T = ``count`` tokens of their prompts."""
    scores = torch.baddbmm(offset, probes, placed.transpose(1, 2))
    return scores.view(len(scores), count, -1).softmax(dim=1).view_as(scores).transpose(1, 2)


def write(layer: TwoWayAttentionBlock, image: Tensor, before: Tensor, weights: Tensor, news: Tensor) -> None:
    """Image tokens (b, N, C) before plus what they read, weights (b, N, X) of news (b, X, C), normalised."""
    image.copy_(layer.norm4(torch.baddbmm(before, weights, news)))


def reading(attention: Attention) -> Reading:
    """Moves the projections of an attention of tokens to the image; ``tell`` is one map of all mixtures together."""
    out, v = by_head(attention.out_proj.weight.T, attention), by_head(attention.v_proj.weight, attention)
    tell = torch.einsum("hdc,hdi->chi", out, v).flatten(1)
    # The bias of the keys adds the same to every score of a token and cancels in the softmax.
    ask = comparing(attention, attention.q_proj, attention.k_proj)
    return Reading(ask, Projection(tell, attention.out_proj(attention.v_proj.bias)))


def writing(attention: Attention) -> Writing:
    """Moves the projections of an attention of the image to tokens."""
    out, v = by_head(attention.out_proj.weight.T, attention), by_head(attention.v_proj.weight, attention)
    # The weights of a head sum to one: a bias given to all tokens of one head reaches every image token once.
    bias = torch.einsum("hdc,hd->hc", out, by_head(attention.v_proj.bias, attention))
    bias = bias + attention.out_proj.bias / attention.num_heads
    tell = Projection(torch.einsum("hdc,hdi->hci", out, v).flatten(0, 1), bias.flatten())
    q, k = by_head(attention.q_proj.bias, attention), by_head(attention.k_proj.bias, attention)
    weight = torch.einsum("hd,hdi->hi", q, by_head(attention.k_proj.weight, attention))
    offset = Projection(weight * q.shape[1] ** -0.5, (q * k).sum(dim=1) * q.shape[1] ** -0.5)
    return Writing(comparing(attention, attention.k_proj, attention.q_proj), offset, tell)


def comparing(attention: Attention, token: nn.Linear, image: nn.Linear) -> Projection:
    """The map of a token that, times an image token, is the scaled product of their projections in each head."""
    there = by_head(image.weight, attention) * (len(image.weight) // attention.num_heads) ** -0.5
    weight = torch.einsum("hdc,hdi->hci", there, by_head(token.weight, attention))
    bias = torch.einsum("hdc,hd->hc", there, by_head(token.bias, attention))
    return Projection(weight.flatten(0, 1), bias.flatten())


def by_head(parameter: Tensor, attention: Attention) -> Tensor:
    """(H * d, ...) to (H, d, ...)."""
    return parameter.unflatten(0, (attention.num_heads, -1))
