"""The two-step decoder gives what the package's decoder gives."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import TwoWayTransformer

from scripts.sam.decode import DecodedTokens, decode_grouped, decode_tokens, draw_masks
from scripts.sam.two_way import two_way


@torch.no_grad()
def test_equals_the_packages_decoder(bundled):
    torch.manual_seed(0)
    embedding = torch.randn(1, 128, 24, 24)
    points = torch.rand(5, 1, 2) * 256, torch.ones(5, 1)
    sparse, dense = bundled.prompt_encoder(points=points, boxes=None, masks=None)
    pe = bundled.prompt_encoder.get_dense_pe()
    masks, iou = bundled.mask_decoder(embedding, pe, sparse, dense, multimask_output=True)
    numbers, groups = zip(*decode_grouped(bundled.mask_decoder, (embedding + dense)[0], pe, sparse, -9.0, 3, 2))
    assert torch.cat(numbers).tolist() == [0, 1, 2, 3, 4]
    shared = DecodedTokens(*(torch.cat(parts) for parts in zip(*groups)))
    tokens = decode_tokens(bundled.mask_decoder, embedding + dense, pe, sparse)
    for a, b in zip(shared, tokens):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        draw_masks(bundled.mask_decoder, tokens, (24, 24), slice(1, 4)), masks, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(tokens.iou[:, 1:], iou, atol=1e-5, rtol=1e-4)
    some = DecodedTokens(*(t[[3, 1]] for t in tokens))
    torch.testing.assert_close(
        draw_masks(bundled.mask_decoder, some, (24, 24), slice(1, 4)), masks[[3, 1]], atol=1e-4, rtol=1e-4
    )
    single, _ = bundled.mask_decoder(embedding, pe, sparse, dense, multimask_output=False)
    torch.testing.assert_close(
        draw_masks(bundled.mask_decoder, tokens, (24, 24), slice(0, 1)), single, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(("depth", "rate"), [(1, 1), (2, 2), (3, 4)])
def test_transformer_of_any_shape_equals_the_packages(depth, rate):
    torch.manual_seed(depth)
    transformer = TwoWayTransformer(depth, 32, 4, 48, attention_downsample_rate=rate).double()
    for p in transformer.parameters():
        torch.nn.init.normal_(p, std=0.3)  # biases too, which start at zero
    image, pe, tokens = (torch.randn(*s, dtype=torch.float64) for s in ((32, 5, 7), (32, 5, 7), (3, 6, 32)))
    expected = transformer(image.expand(3, -1, -1, -1), pe.expand(3, -1, -1, -1), tokens)
    groups = list(two_way(transformer, image, pe, tokens, 3, 2, 1))
    assert [len(g.image) for g in groups] == [2, 1]
    torch.testing.assert_close(torch.cat([g.tokens(slice(None)) for g in groups]), expected[0])
    torch.testing.assert_close(torch.cat([g.image for g in groups]), expected[1])
    torch.testing.assert_close(torch.cat([g.early for g in groups]), expected[0][:, :3])
    some = groups[0][torch.tensor([1])]
    torch.testing.assert_close(some.tokens(slice(2, 4)), expected[0][1:2, 2:4])
