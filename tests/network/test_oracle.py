"""The whole network against section 3.2 of the paper, written out with MONAI's warp and exponential."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.blocks import DVF2DDF, Warp
from torch.nn import functional as F

from scripts.common.errors import InputError
from scripts.common.weights import load_weights
from scripts.data.batches import inference_batch
from scripts.network.model import CrossFusionNet
from scripts.network.refine import RefineSettings
from scripts.network.registration import NetworkRegistration


def network(dims: int = 2, diffeomorphic: bool = True, one_field: bool = False) -> CrossFusionNet:
    """Three levels with random weights that give fields of several voxels."""
    torch.manual_seed(0)
    options = {"diffeomorphic": diffeomorphic, "one_field": one_field}
    net = CrossFusionNet(dims, 2, channels=(4, 6, 8), window=2, **options).eval()
    for level in net.levels:
        torch.nn.init.normal_(level.head.weight, std=0.05)
        for block in (level.image, level.mask, level.fusion.image_asks, level.fusion.mask_asks):
            for attention in block.attention:
                torch.nn.init.normal_(attention.bias)
                for layer in (attention.query, attention.key_value, attention.out):
                    torch.nn.init.normal_(layer.weight, std=0.5)
    return net


def pair(dims: int = 2) -> torch.Tensor:
    """Two images with different masks, (1, 4, *shape)."""
    shape = (16, 12, 8)[:dims]
    image = torch.rand(1, 4, *shape, generator=torch.Generator().manual_seed(1))
    image[:, 2:] = 0
    image[0, 2, 2:9, 3:7], image[0, 2, 9:13, 4:9] = 1, 2
    image[0, 3, 4:12, 2:6], image[0, 3, 4:8, 6:11] = 1, 2
    return image


def slow_field(net: CrossFusionNet, image: torch.Tensor) -> torch.Tensor:
    """Every step as in the paper, for images whose size every level halves."""
    warp = Warp("bilinear", "border")
    mode = "bilinear" if net.spatial_dims == 2 else "trilinear"
    moving, fixed, moving_mask, fixed_mask = image.split(1, dim=1)

    def structures(labels):
        return torch.cat([(labels == k).float() for k in range(1, net.structures + 1)], dim=1)

    features = [net.image_encoder(moving), net.image_encoder(fixed)]
    features += [net.mask_encoder(structures(moving_mask)), net.mask_encoder(structures(fixed_mask))]
    exponential = DVF2DDF(num_steps=6, mode="bilinear", padding_mode="border")
    field = None
    for number in (2, 1, 0):
        level, (i_m, i_f, s_m, s_f) = net.levels[number], (f[number] for f in features)
        if field is not None:
            field = 2 * F.interpolate(
                field, i_m.shape[2:], mode=mode
            )  # with twice as many voxels, displacements double
            carrier = exponential(field) if net.one_field else field
            i_m, s_m = warp(i_m, carrier), warp(s_m, carrier)
        last = [x.movedim(1, -1) for x in (i_m, i_f, s_m, s_f)]
        crossed_image = level.image(query=last[0], context=last[1])
        crossed_mask = level.mask(query=last[2], context=last[3])
        fused = level.fusion.image_asks(query=crossed_image, context=crossed_mask)
        fused = (fused + level.fusion.mask_asks(query=crossed_mask, context=crossed_image)) / 2
        residual = level.head(level.mix(torch.cat([fused.movedim(-1, 1), i_m, i_f, s_m, s_f], dim=1)))
        field = residual if field is None else field + residual
    return exponential(field) if net.diffeomorphic else field


@pytest.mark.parametrize("diffeomorphic", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_field_is_the_one_of_the_paper(dims, diffeomorphic):
    net, image = network(dims, diffeomorphic), pair(dims)
    with torch.no_grad():
        field = net(image)
        torch.testing.assert_close(field, slow_field(net, image), atol=1e-4, rtol=1e-3)
    assert float(field.abs().max()) > 0.5  # an easy field would hide mistakes


def test_one_field_warps_features_as_the_output():
    image = pair()
    with torch.no_grad():
        one, two = network(one_field=True), network()
        torch.testing.assert_close(one(image), slow_field(one, image), atol=1e-4, rtol=1e-3)
        assert float((one(image) - two(image)).abs().max()) > 0.01
        with pytest.raises(InputError, match="1 entries differ, first one_field_weights"):
            load_weights(two, one.state_dict(), "w.pt", "the network")
        two.adapt_to(one.state_dict())
        load_weights(two, one.state_dict(), "w.pt", "the network")
        assert two.one_field and torch.equal(one(image), two(image))
        two.one_field = False
        one.diffeomorphic = two.diffeomorphic = False
        torch.testing.assert_close(one(image), two(image))  # without the exponential there is only one field


def test_features_are_those_of_each_image_before_the_warp():
    net, image = network(), pair()
    with torch.no_grad():
        out = net.predict(image)
        for number in range(3):
            torch.testing.assert_close(out.moving[number], net.image_encoder(image[:, 0:1])[number])
            torch.testing.assert_close(out.fixed[number], net.image_encoder(image[:, 1:2])[number])


def test_the_masks_reach_the_network_at_inference():
    net, image = network(), pair()
    batch = {"image": MetaTensor(image[:, :2], affine=torch.eye(4)), "masks": image[0, 2:]}
    inputs, *_ = inference_batch(batch, "cpu")
    with torch.no_grad():
        found = NetworkRegistration(RefineSettings(), progress=False)(inputs, net).ddf
        torch.testing.assert_close(found, slow_field(net, image), atol=1e-4, rtol=1e-3)
        empty = torch.cat([image[:, :2], torch.zeros_like(image[:, 2:])], dim=1)
        assert float((slow_field(net, empty) - found).abs().max()) > 0.05
