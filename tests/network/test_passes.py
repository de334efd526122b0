"""Several passes of the network: each registers what the passes before it left."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scripts.common.errors import InputError
from scripts.network.pair_network import PairNetwork, Prediction
from scripts.network.refine import RefineSettings
from scripts.network.registration import NetworkRegistration
from scripts.spatial.warp import warp

SHAPE = (24, 20, 16)


class Scripted(PairNetwork):
    """Returns the next of a list of fields and keeps what it was shown."""

    def __init__(self, fields: list[Tensor]) -> None:
        super().__init__(3, 1, 1, [1, 1, 1])
        self.fields, self.shown = fields, []

    def compute(self, image: Tensor) -> Prediction:
        self.shown.append(image.clone())
        return Prediction(self.fields[len(self.shown) - 1], [image[:, :1]], [image[:, 1:2]])


class Halfway(PairNetwork):
    """Shifts the mask half of the way to the fixed mask, as a network that underestimates large motion."""

    def __init__(self) -> None:
        super().__init__(3, 1, 1, [1, 1, 1])

    def compute(self, image: Tensor) -> Prediction:
        moving, fixed = (torch.nonzero(image[0, c]).float().mean(dim=0) for c in (2, 3))
        shift = ((moving - fixed) / 2).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
        return Prediction(shift.contiguous(), [image[:, :1]], [image[:, 1:2]])


def blob(centre: tuple[float, float, float], width: float = 4.0) -> Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in SHAPE], indexing="ij"))
    return torch.exp(-((grid - torch.tensor(centre).view(3, 1, 1, 1)) ** 2).sum(dim=0) / (2 * width**2))


def pair(moving: tuple[float, float, float], fixed: tuple[float, float, float]) -> Tensor:
    a, b = blob(moving), blob(fixed)
    return torch.stack([a, b, (a > 0.6).float(), (b > 0.6).float()])[None]


def registration(passes: int, check: bool = False) -> NetworkRegistration:
    return NetworkRegistration(RefineSettings(), progress=False, check=check, passes=passes)


@pytest.mark.parametrize(("passes", "left"), [(1, 4.0), (2, 2.0), (3, 1.0)])
def test_each_pass_halves_what_is_left(passes, left):
    result = registration(passes)(pair((15, 10, 8), (7, 10, 8)), Halfway())
    assert float(result.ddf[0, 0].mean()) == pytest.approx(8 - left, abs=0.3)
    assert float(result.ddf[0, 1:].abs().max()) == 0


def test_the_field_is_that_of_all_passes_in_their_order():
    """The image moved by the result is the image moved by the first field and then by the second."""
    image = pair((13, 10, 8), (11, 10, 8))
    turn = torch.zeros(1, 3, *SHAPE)
    x, y = (torch.arange(float(n)) - n / 2 for n in SHAPE[:2])
    turn[:, 0], turn[:, 1] = -0.3 * y.view(1, -1, 1), 0.3 * x.view(-1, 1, 1)
    shift = torch.zeros(1, 3, *SHAPE)
    shift[:, 0] = 3.0
    network = Scripted([turn, shift])
    result = registration(2)(image, network)
    twice = warp(warp(image[:, :1], turn), shift)
    inner = (..., slice(4, -4), slice(4, -4), slice(4, -4))
    assert float((warp(image[:, :1], result.ddf) - twice)[inner].abs().max()) < 0.02
    other_order = warp(warp(image[:, :1], shift), turn)
    assert float((other_order - twice)[inner].abs().max()) > 0.1

    first, second = network.shown
    assert torch.equal(first, image)
    torch.testing.assert_close(second[:, :1], warp(image[:, :1], turn))
    torch.testing.assert_close(second[:, 2:3], warp(image[:, 2:3], turn, mode="nearest", padding="zeros"))
    assert torch.equal(second[:, 1], image[:, 1]) and torch.equal(second[:, 3], image[:, 3])


def test_a_pass_that_makes_it_worse_is_undone_and_ends_the_passes():
    image = pair((15, 10, 8), (11, 10, 8))
    shift, away = torch.zeros(1, 3, *SHAPE), torch.zeros(1, 3, *SHAPE)
    shift[:, 0], away[:, 0] = 4.0, -9.0
    network = Scripted([shift, away, away])
    result = registration(3, check=True)(image, network)
    assert len(network.shown) == 2
    assert torch.equal(result.ddf, shift) and not result.discarded
    assert "Pass 2 of the network was discarded" in result.doubts[0]
    assert not result.details["checks"]["pass 2 of the network"]["kept"]

    network = Scripted([away, shift, shift])
    result = registration(3, check=True)(image, network)
    assert len(network.shown) == 1 and result.discarded and not result.ddf.any()


def test_no_pass_is_refused():
    with pytest.raises(InputError, match="must be at least 1, got 0"):
        registration(0)
