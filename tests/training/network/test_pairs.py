"""What the training adds to the network: a segmentation head, and fields in both directions."""

from __future__ import annotations

import pytest
import torch

from scripts.losses.consistency import InverseConsistency
from scripts.losses.registration import RegistrationLoss
from scripts.losses.segmentation import Segmentation
from scripts.network.model import CrossFusionNet
from scripts.training.network.pairs import PairTraining
from tests.network.test_model import training_input


@pytest.fixture
def net() -> CrossFusionNet:
    torch.manual_seed(0)
    net = CrossFusionNet(2, 1, channels=(4, 8))
    torch.nn.init.normal_(net.levels[0].head.weight, std=0.05)
    return net


def test_the_head_segments_the_fixed_image(net):
    training, inputs = PairTraining(net, head=True), training_input()
    ((_, pair),) = training(**inputs)
    torch.testing.assert_close(pair.logits, training.head(pair.features[0][1][None])[0])
    loss = RegistrationLoss({"segmentation": Segmentation(1.0)})
    optimizer = torch.optim.Adam(training.parameters(), 2e-2)
    history = []
    for _ in range(25):
        optimizer.zero_grad()
        loss(training(**inputs)).backward()
        assert float(net.image_encoder.levels[0][0][0].weight.grad.abs().sum()) > 0
        optimizer.step()
        history.append(loss.terms["segmentation"])
    assert history[-1] < 0.4 * history[0]
    assert set(net.state_dict()) == set(CrossFusionNet(2, 1, channels=(4, 8)).state_dict())


def test_the_other_direction_is_the_swapped_pair(net):
    inputs = training_input()
    ((_, pair),) = PairTraining(net, both_ways=True)(**inputs)
    swapped = {key: inputs[key].flip(1) if key != "spacing" and key != "name" else inputs[key] for key in inputs}
    ((back, _),) = PairTraining(net)(**swapped)
    torch.testing.assert_close(pair.inverse, back)
    loss = RegistrationLoss({"inverse": InverseConsistency(1.0)})
    loss(PairTraining(net, both_ways=True)(**inputs)).backward()
    assert float(net.levels[1].head.weight.grad.abs().sum()) > 0
