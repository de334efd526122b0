"""The registration network: any size, units of the field, equality of its variants, and learning."""

from __future__ import annotations

import pytest
import torch

from scripts.common.errors import InputError
from scripts.losses.prototype import PrototypeAlignment, PrototypeContrast
from scripts.losses.registration import RegistrationLoss
from scripts.network.encoder import Encoder
from scripts.network.model import CrossFusionNet
from scripts.network.refine import RefineSettings
from scripts.network.weights import load_network
from scripts.training.network.pairs import PairTraining


def pair_of(*shape, batch=1, structures=3) -> torch.Tensor:
    image = torch.rand(batch, 4, *shape)
    image[:, 2:] = torch.randint(0, structures + 1, image[:, 2:].shape).float()
    return image


@pytest.mark.parametrize("shape", [(32, 24), (17, 9), (3, 2), (16, 16, 8), (11, 13, 7), (2, 3, 2)])
def test_any_size_starts_near_the_identity(shape):
    torch.manual_seed(0)
    net = CrossFusionNet(len(shape), channels=(4, 8, 8, 8)).eval()
    ddf = net(pair_of(*shape, batch=2))
    assert ddf.shape == (2, len(shape), *shape)
    assert 0 < float(ddf.detach().abs().max()) < 0.1


@pytest.mark.parametrize("strides", [2, (2, 2, 1)])
def test_field_is_doubled_from_level_to_level(strides):
    net = CrossFusionNet(3, channels=(2, 2, 2, 2), strides=strides).eval()
    for level in net.levels:
        torch.nn.init.zeros_(level.head.weight)
    with torch.no_grad():
        net.levels[-1].head.bias[:] = torch.tensor([1.0, -0.5, 0.25])
        net.levels[0].head.bias[:] = 0.125
        ddf = net(pair_of(13, 16, 9))
    last = 8 if strides == 2 else 1
    for channel, value in enumerate((8.125, -4 + 0.125, last * 0.25 + 0.125)):
        torch.testing.assert_close(ddf[:, channel], torch.full((1, 13, 16, 9), value))


def test_moving_features_are_warped_between_levels():
    """With the coarse field equal to the true shift, the fine level sees equal images."""
    net = CrossFusionNet(2, 1, channels=(2, 4), strides=2).eval()
    torch.nn.init.zeros_(net.levels[1].head.weight)
    seen = {}
    net.levels[0].register_forward_pre_hook(lambda m, args: seen.update(moving=args[0], fixed=args[1]))
    fixed = torch.rand(1, 1, 32, 32)
    image = torch.cat([fixed.roll(4, dims=2), fixed, torch.zeros(1, 2, 32, 32)], dim=1)
    apart = []
    inner = (slice(None), slice(None), slice(4, 24), slice(2, -2))
    with torch.no_grad():
        for shift in (2.0, 0.0):
            net.levels[1].head.bias[:] = torch.tensor([shift, 0.0])
            net(image)
            apart.append(float((seen["moving"][inner] - seen["fixed"][inner]).abs().mean()))
    assert apart[0] < 0.05 * apart[1]


def test_pairs_of_a_batch_do_not_see_each_other():
    torch.manual_seed(0)
    net = CrossFusionNet(2, channels=(4, 8, 8)).eval()
    image = pair_of(20, 18, batch=3)
    with torch.no_grad():
        one_by_one = torch.cat([net(image[b : b + 1]) for b in range(3)])
        torch.testing.assert_close(net(image), one_by_one, atol=1e-6, rtol=1e-4)


def test_masks_are_seen_by_structure():
    torch.manual_seed(0)
    net = CrossFusionNet(2, 2, channels=(4, 8)).eval()
    image = pair_of(12, 12, structures=2)
    other = image.clone()
    other[:, 3] = torch.where(image[:, 3] == 1, 2.0, torch.where(image[:, 3] == 2, 1.0, 0.0))
    with torch.no_grad():
        assert not torch.equal(net(image), net(other))
        unknown = image.clone()
        unknown[:, 3][image[:, 3] == 0] = 7.0  # a label beyond the structures counts as background
        torch.testing.assert_close(net(image), net(unknown))


def test_checkpointing_changes_nothing():
    torch.manual_seed(0)
    plain = CrossFusionNet(2, channels=(4, 8))
    saving = CrossFusionNet(2, channels=(4, 8), checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    image = pair_of(16, 12)
    for net in (plain, saving):
        net(image).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


def test_diffeomorphic_fields_do_not_fold():
    from scripts.metrics.jacobian import jacobian_determinant

    torch.manual_seed(0)
    net = CrossFusionNet(2, channels=(4, 8, 8), diffeomorphic=True).eval()
    free = CrossFusionNet(2, channels=(4, 8, 8)).eval()
    free.load_state_dict(net.state_dict())
    for n in (net, free):
        torch.nn.init.normal_(n.levels[-1].head.weight, std=0.12, generator=torch.Generator().manual_seed(0))
    image = pair_of(32, 32)
    with torch.no_grad():
        assert float(jacobian_determinant(free(image)).min()) < 0 < float(jacobian_determinant(net(image)).min())


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"takes \(B, 4, H, W\), got \(1, 2, 8, 8\)"):
        CrossFusionNet(2)(torch.rand(1, 2, 8, 8))
    with pytest.raises(ValueError, match="must be 2 or 3, got 4"):
        CrossFusionNet(4)
    with pytest.raises(ValueError, match="needs 3 positive whole numbers, got"):
        CrossFusionNet(3, strides=(2, 2))
    with pytest.raises(ValueError, match="at least one structure, got 0"):
        CrossFusionNet(3, 0)


def test_encoder_levels():
    features = Encoder(3, 2, (4, 6, 8), [(2, 2, 1), (2, 2, 2)])(torch.rand(1, 2, 8, 8, 4))
    assert [tuple(f.shape) for f in features] == [(1, 4, 8, 8, 4), (1, 6, 4, 4, 4), (1, 8, 2, 2, 2)]


def training_input(size=32):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    labels = torch.stack([((y - size / 2 - s) ** 2 + (x - size / 2) ** 2 < r**2).float() for s, r in ((-2, 8), (2, 7))])
    image = labels * 0.6 + 0.2
    return {
        "image": image[None], "masks": labels[None], "targets": labels[None], "spacing": torch.ones(1, 2), "name": ["a"]
    }  # fmt: skip


def test_it_learns_a_pair():
    torch.manual_seed(0)
    model = PairTraining(CrossFusionNet(2, 1, channels=(4, 8, 8)))
    loss = RegistrationLoss(
        {**RefineSettings().terms, "contrast": PrototypeContrast(), "alignment": PrototypeAlignment()}
    )
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    history = []
    for _ in range(60):
        optimizer.zero_grad()
        loss(model(**training_input())).backward()
        optimizer.step()
        history.append(loss.terms)
    assert set(history[0]) == {"lncc", "diffusion", "dice", "contrast", "alignment", "contour"}
    assert history[-1]["dice"] < 0.3 * history[0]["dice"]
    assert history[-1]["contour"] < 0.3 * history[0]["contour"]


def test_the_network_sees_the_masks_and_the_loss_the_targets():
    torch.manual_seed(0)
    net = CrossFusionNet(2, 1, channels=(4, 8))
    inputs = training_input()
    inputs["masks"] = torch.zeros_like(inputs["masks"])
    ((ddf, pair),) = PairTraining(net)(**inputs)
    with torch.no_grad():
        expected = net.predict(torch.cat([inputs["image"], inputs["masks"]], dim=1))
    torch.testing.assert_close(ddf, expected.ddf)
    assert torch.equal(pair.labels, inputs["targets"][0]) and torch.equal(pair.feature_labels, inputs["targets"][0])
    assert torch.equal(pair.images, inputs["image"][0]) and pair.name == "a" and pair.spacing == [1.0, 1.0]
    for (moving, fixed), a, b in zip(pair.features, expected.moving, expected.fixed):
        torch.testing.assert_close((moving, fixed), (a[0], b[0]))
    assert not torch.allclose(pair.features[0][0], pair.features[0][1])


def test_weights_of_another_network_are_refused(tmp_path):
    net = CrossFusionNet(2, 1, channels=(4, 8))
    path = tmp_path / "w.pt"
    torch.save({"model": net.state_dict()}, path)
    again = load_network(CrossFusionNet(2, 1, channels=(4, 8)), path)
    torch.testing.assert_close(dict(again.named_parameters()), dict(net.named_parameters()))
    assert load_network(net, None) is net
    with pytest.raises(InputError, match="does not fit this registration network"):
        load_network(CrossFusionNet(2, 1, channels=(4, 6)), path)
    path.write_bytes(b"no weights")
    with pytest.raises(InputError, match="is not a readable weights file"):
        load_network(net, path)
    with pytest.raises(InputError, match="are not at"):
        load_network(net, tmp_path / "gone.pt")
