# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""segment_anything's mask decoder in two steps, so that masks are only drawn for prompts worth it.

``MaskDecoder.predict_masks`` draws four masks for every prompt of one image. Here the attention part, which also
predicts the quality, comes first, for prompts of any mix of images; the upscaling comes second, for the prompts that
survive. Same weights, same arithmetic (tested against ``MaskDecoder.forward``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor

from scripts.sam.two_way import two_way


class DecodedTokens(NamedTuple):
    """What the attention part leaves for each of B prompts.

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
        image_pe: (1, C, h, w) positional encoding.
        sparse: (B, N, C) sparse prompt embeddings.
    """
    tokens = with_output_tokens(decoder, sparse)
    hidden, image = decoder.transformer(embedding, image_pe.expand(len(sparse), -1, -1, -1), tokens)
    return decoded(decoder, hidden, image)


def decode_grouped(
    decoder: MaskDecoder, embedding: Tensor, image_pe: Tensor, sparse: Tensor, group: int
) -> Iterator[DecodedTokens]:
    """As :func:`decode_tokens` for many prompts that share one embedding (C, h, w), a group of prompts at a time."""
    tokens = with_output_tokens(decoder, sparse)
    for hidden, image in two_way(decoder.transformer, embedding, image_pe[0], tokens, group):
        yield decoded(decoder, hidden, image)


def with_output_tokens(decoder: MaskDecoder, sparse: Tensor) -> Tensor:
    """The tokens of quality and masks before the prompt tokens (B, N, C) of each prompt."""
    output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    return torch.cat([output.expand(len(sparse), -1, -1), sparse], dim=1)


def decoded(decoder: MaskDecoder, hidden: Tensor, image: Tensor) -> DecodedTokens:
    """Sorts the transformer's tokens (B, T, C) and image tokens (B, h * w, C) by what they are for."""
    return DecodedTokens(hidden[:, 1 : 1 + decoder.num_mask_tokens], decoder.iou_prediction_head(hidden[:, 0]), image)


def draw_masks(decoder: MaskDecoder, tokens: DecodedTokens, size: tuple[int, int], outputs: slice) -> Tensor:
    """Upscales the image tokens four times and draws the chosen masks.

    Args:
        decoder: the decoder that made the tokens.
        tokens: of B prompts.
        size: (h, w) of the embedding.
        outputs: which mask tokens to draw, ``slice(0, 1)`` for the single mask, ``slice(1, 4)`` for the three others.

    Returns:
        (B, n, 4h, 4w) mask logits.
    """
    image = tokens.image.transpose(1, 2).unflatten(2, size)
    upscaled = decoder.output_upscaling(image)
    chosen = range(decoder.num_mask_tokens)[outputs]
    weights = torch.stack([decoder.output_hypernetworks_mlps[i](tokens.masks[:, i]) for i in chosen], dim=1)
    return (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
