"""MONAI's VoxelMorph as a registration network: the same field, any size, masks only in the losses."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import VoxelMorph

from scripts.losses.overlap import Dice
from scripts.losses.registration import RegistrationLoss
from scripts.losses.similarity import LNCC
from scripts.losses.smoothness import Diffusion
from scripts.network.voxelmorph import VoxelMorphNet
from scripts.training.network.pairs import PairTraining


def lively(spatial_dims: int = 3) -> VoxelMorphNet:
    """A small network with displacements of about a voxel."""
    torch.manual_seed(0)
    net = VoxelMorphNet(spatial_dims, 3, channels=(4, 8, 8, 8), final_channels=(4,), integration_steps=5).eval()
    torch.nn.init.normal_(net.net["backbone"].net[-1].final_conv_out.conv.weight, std=6.0)
    return net


def monais(net: VoxelMorphNet) -> VoxelMorph:
    """MONAI's own network with the same weights."""
    return VoxelMorph(net.net["backbone"], net.integration_steps, spatial_dims=net.spatial_dims)


@pytest.mark.parametrize("shape", [(16, 12), (16, 12, 8)])
def test_field_is_monais_own_where_sizes_divide(shape):
    net, image = lively(len(shape)), torch.rand(2, 4, *shape)
    with torch.no_grad():
        _, expected = monais(net)(image[:, 0:1], image[:, 1:2])
        found = net(image)
    assert monais(net).state_dict().keys() == net.net.state_dict().keys()
    assert float(expected.abs().max()) > 0.5
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_other_sizes_are_padded_at_the_far_borders():
    net, image = lively(), torch.rand(1, 4, 13, 16, 6)
    bigger = torch.nn.functional.pad(image, (0, 2, 0, 0, 0, 3), mode="replicate")
    with torch.no_grad():
        found, whole = net(image), net(bigger)
    assert found.shape == (1, 3, 13, 16, 6)
    torch.testing.assert_close(found, whole[:, :, :13, :16, :6])


def test_masks_are_not_looked_at():
    net, image = lively(), torch.rand(1, 4, 16, 16, 8)
    other = image.clone()
    other[:, 2:] = 3.0
    with torch.no_grad():
        torch.testing.assert_close(net(image), net(other), atol=0, rtol=0)


def test_coordinates_stay_in_full_precision():
    net, image = lively(), torch.rand(1, 4, 16, 16, 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(image)
        velocity = net.net["backbone"](image[:, :2])
    assert velocity.dtype == torch.bfloat16 and half.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(half, monais(net).dvf2ddf(velocity.float()), atol=1e-4, rtol=1e-5)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"takes \(B, 4, H, W, D\), got \(1, 2, 8, 8, 8\)"):
        VoxelMorphNet()(torch.rand(1, 2, 8, 8, 8))


def test_it_learns_a_shift_from_the_identity():
    """The recipe of the other network, without prototype terms because there are no learned features."""
    torch.manual_seed(0)
    net = VoxelMorphNet(2, 1, channels=(8, 16, 16, 16), final_channels=(8,))
    fixed = torch.nn.functional.avg_pool2d(torch.rand(1, 1, 24, 24), 5, 1, 2)
    image = torch.cat([fixed.roll(2, dims=2), fixed], dim=1)
    mask = torch.zeros(1, 1, 24, 24)
    mask[..., 8:16, 8:16] = 1
    masks = torch.cat([mask.roll(2, dims=2), mask], dim=1)
    batch = {"image": image, "masks": masks, "targets": masks, "spacing": torch.ones(1, 2)}
    training, loss = PairTraining(net), RegistrationLoss({"lncc": LNCC(), "dice": Dice(), "diffusion": Diffusion(0.05)})
    assert float(net(torch.cat([image, masks], dim=1)).abs().max()) < 1e-3
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        optimizer.zero_grad()
        loss(training(**batch)).backward()
        optimizer.step()
        history.append(loss.terms["dice"])
    assert history[-1] < 0.5 * history[0]
    assert float(net(torch.cat([image, masks], dim=1))[0, 0, 10:14, 10:14].mean()) > 1.0
