"""Windowed cross attention against a loop over voxels, padding, shift and bias included."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from monai.networks.nets.swin_unetr import window_partition

from scripts.network.attention import (
    CrossAttentionBlock,
    FusionAttentionBlock,
    WindowCrossAttention,
    from_windows,
    to_windows,
)


@pytest.mark.parametrize(("shape", "window"), [([8, 6], [4, 3]), ([4, 6, 8], [2, 3, 4])])
def test_windows_as_monai_cuts_them_and_back(shape, window):
    x = torch.randn(2, *shape, 5)
    cut = to_windows(x, window)
    torch.testing.assert_close(cut, window_partition(x, window))
    torch.testing.assert_close(from_windows(cut, window, shape), x)


def slow_attention(layer: WindowCrossAttention, query, context):
    """Each voxel looks at the voxels of its window, one by one."""
    shape = query.shape[1:-1]
    window = [min(w, s) for w, s in zip(layer.window, shape)]
    front = [w // 2 if layer.shifted and s > w else 0 for w, s in zip(window, shape)]
    q, (k, v) = layer.query(query), layer.key_value(context).chunk(2, dim=-1)
    d = q.shape[-1] // layer.heads
    out = torch.zeros_like(q)
    places = list(product(*[range(s) for s in shape]))
    for b, head, i in product(range(len(q)), range(layer.heads), places):
        part = slice(head * d, (head + 1) * d)
        home = [(x + f) // w for x, f, w in zip(i, front, window)]
        near = [j for j in places if [(x + f) // w for x, f, w in zip(j, front, window)] == home]
        logits = torch.stack([
            (q[(b, *i)][part] * k[(b, *j)][part]).sum() * d**-0.5
            + layer.bias[(head, *[x - y + w - 1 for x, y, w in zip(i, j, layer.window)])]
            for j in near
        ])  # fmt: skip
        out[(b, *i)][part] = (logits.softmax(dim=0)[:, None] * torch.stack([v[(b, *j)][part] for j in near])).sum(dim=0)
    return layer.out(out)


@pytest.mark.parametrize("training", [False, True])  # computed in another way
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("shape", "window"), [((5, 7), (3, 4)), ((4, 4), (4, 4)), ((3, 5, 2), (2, 3, 4))])
def test_attention_equals_a_loop(shape, window, shifted, training):
    torch.manual_seed(0)
    layer = WindowCrossAttention(6, 2, window, shifted)
    torch.nn.init.normal_(layer.bias)
    query, context = torch.randn(2, 2, *shape, 6).unbind()
    with torch.set_grad_enabled(training):
        found = layer(query, context)
    with torch.no_grad():
        torch.testing.assert_close(found, slow_attention(layer, query, context), atol=1e-5, rtol=1e-5)


def test_bias_learns_and_heads_must_divide():
    layer = WindowCrossAttention(4, 2, (2, 2), True)
    layer(torch.randn(1, 5, 5, 4), torch.randn(1, 5, 5, 4)).sum().backward()
    assert float(layer.bias.grad.abs().sum()) > 0
    with pytest.raises(ValueError, match="3 heads for 8 channels"):
        WindowCrossAttention(8, 3, (2, 2), False)


def test_shifted_windows_carry_across_the_borders_of_the_others():
    torch.manual_seed(0)
    block = CrossAttentionBlock(4, 1, (4, 4))
    context = torch.randn(1, 8, 8, 4)
    changed = context.clone()
    changed[0, 3, 3] += torch.tensor([3.0, -3.0, 0.0, 1.0])
    query = torch.randn(1, 8, 8, 4)
    moved = (block(query, changed) - block(query, context)).abs().amax(dim=-1)[0] > 1e-6
    assert moved[5, 5] and moved[0, 0]  # the window of (3, 3) is [0, 3], the shifted one [2, 5]
    assert not moved[7, 7]


def test_fusion_averages_both_directions():
    torch.manual_seed(0)
    block = FusionAttentionBlock(4, 1, (4, 4))
    image, mask = torch.randn(2, 1, 6, 6, 4).unbind()
    expected = (block.image_asks(image, mask) + block.mask_asks(mask, image)) / 2
    torch.testing.assert_close(block(image, mask), expected)
