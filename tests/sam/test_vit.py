"""The row-wise attention gives what the package's gives."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention, ImageEncoderViT

from scripts.sam.vit import StripAttention, save_memory


@pytest.mark.parametrize(("size", "positions"), [((7, 5), True), ((6, 6), True), ((5, 8), False)])
def test_equals_the_packages_attention(size, positions):
    torch.manual_seed(0)
    attention = Attention(24, 3, use_rel_pos=positions, input_size=size).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # relative positions start at zero
    x = torch.randn(2, *size, 24, dtype=torch.float64)
    expected = attention(x)
    attention.__class__ = StripAttention
    torch.testing.assert_close(attention(x), expected)


@torch.no_grad()
def test_an_encoder_keeps_its_weights_and_its_answer():
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=96, embed_dim=32, depth=3, num_heads=4, use_rel_pos=True, window_size=4, global_attn_indexes=(1,)
    ).eval()
    names = list(encoder.state_dict())
    x = torch.randn(1, 3, 96, 96)
    expected = encoder(x)
    sam = torch.nn.Module()
    sam.image_encoder = encoder
    save_memory(sam)
    assert all(type(block.attn) is StripAttention for block in encoder.blocks)
    assert list(encoder.state_dict()) == names
    torch.testing.assert_close(encoder(x), expected, atol=1e-5, rtol=1e-4)
