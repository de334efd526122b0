# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""segment_anything's mask decoder in two steps, so that masks are drawn only for prompts of sufficient quality.

``MaskDecoder.predict_masks`` draws four masks for every prompt of one image. Here the attention part, which also
predicts the quality, comes first; the upscaling follows for the prompts that pass. Same weights, same arithmetic
(tested against ``MaskDecoder.forward``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from .two_way import two_way


class DecodedTokens(NamedTuple):
    """Output of the attention part for each of B prompts.

    Attributes:
        masks: (B, 4, C) mask tokens; 0 is the single-mask output, 1..3 the ambiguity-aware ones.
        iou: (B, 4) predicted mask quality.
        image: (B, h * w, C) image tokens.
    """

    masks: Tensor
    iou: Tensor
    image: Tensor


def decode_tokens(decoder: MaskDecoder, embedding: Tensor, image_pe: Tensor, sparse: Tensor) -> DecodedTokens:
    """Runs the two-way transformer and the quality head.

    Args:
        decoder: the decoder of any Segment Anything model.
        embedding: (B, C, h, w) image embedding plus dense prompt embedding of each prompt.
        image_pe: (1, C, h, w) positional encoding, or (B, C, h, w), one for each prompt.
        sparse: (B, N, C) sparse prompt embeddings.
    """
    tokens = with_output_tokens(decoder, sparse)
    hidden, image = decoder.transformer(embedding, image_pe.expand(len(sparse), -1, -1, -1), tokens)
    return DecodedTokens(hidden[:, 1 : 1 + decoder.num_mask_tokens], decoder.iou_prediction_head(hidden[:, 0]), image)


def decode_grouped(
    decoder: MaskDecoder, embedding: Tensor, image_pe: Tensor, sparse: Tensor, least: float, group: int, few: int
) -> Iterator[tuple[Tensor, DecodedTokens]]:
    """:func:`decode_tokens` for many prompts of one embedding, restricted to those of sufficient quality.

    Args:
        decoder: the decoder of any Segment Anything model.
        embedding: (C, h, w) image embedding plus dense prompt embedding.
        image_pe: (1, C, h, w) positional encoding.
        sparse: (B, N, C) sparse prompt embeddings.
        least: predicted quality that one of the masks 1..3 of a prompt must exceed.
        group: prompts whose own image tokens are in memory at once.
        few: prompts of a group whose image tokens are processed together.

    Yields:
        the numbers (b,) of at most ``few`` prompts that pass, and their output.
    """
    tokens = with_output_tokens(decoder, sparse)
    masks = slice(1, 1 + decoder.num_mask_tokens)
    first = 0
    for prompts in two_way(decoder.transformer, embedding, image_pe[0], tokens, 1, group, few):
        iou = decoder.iou_prediction_head(prompts.early[:, 0])
        worth = (iou[:, 1:] > least).any(dim=1).nonzero()[:, 0]
        for some in worth.split(few) if len(worth) else ():
            chosen = prompts[some]
            yield first + some, DecodedTokens(chosen.tokens(masks), iou[some], chosen.image)
        first += len(iou)


def with_output_tokens(decoder: MaskDecoder, sparse: Tensor) -> Tensor:
    """Puts the output tokens (quality, masks) before the prompt tokens (B, N, C)."""
    output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    return torch.cat([output.expand(len(sparse), -1, -1), sparse], dim=1)


def draw_masks(decoder: MaskDecoder, tokens: DecodedTokens, size: tuple[int, int], outputs: slice) -> Tensor:
    """Upscales the image tokens of B prompts four times and draws the chosen masks.

    Args:
        decoder: the decoder that made the tokens.
        tokens: of B prompts.
        size: (h, w) of the embedding.
        outputs: which mask tokens to draw, ``slice(0, 1)`` for the single mask, ``slice(1, 4)`` for the three others.

    Returns:
        (B, n, 4h, 4w) mask logits.
    """
    chosen = range(decoder.num_mask_tokens)[outputs]
    weights = torch.stack([decoder.output_hypernetworks_mlps[i](tokens.masks[:, i]) for i in chosen], dim=2)
    first, norm, activate, second, activate_last = decoder.output_upscaling
    larger = F.layer_norm(quartered(first, tokens.image), norm.weight.shape, norm.weight, norm.bias, norm.eps)
    larger = activate_last(quartered(second, activate(larger)))
    masks = larger.flatten(1, 3) @ weights  # before the rearrangement, which then moves few channels
    masks = masks.view(len(masks), *size, 2, 2, 2, 2, -1).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return masks.reshape(*masks.shape[:2], 4 * size[0], 4 * size[1])


def quartered(convolution: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution with kernel and stride 2: each pixel (B, ..., C) becomes four, (B, ..., 4, D)."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return F.linear(x, weight, convolution.bias.repeat(4)).unflatten(-1, (4, -1))
