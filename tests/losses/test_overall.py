"""The loss of a pair, equation 11: known values, naive implementations, steps that lower each term."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.losses.contour import Contour
from scripts.losses.overlap import Dice
from scripts.losses.pair import LossPair
from scripts.losses.registration import RegistrationLoss
from scripts.losses.similarity import LNCC, lncc
from scripts.losses.smoothness import Diffusion
from scripts.network.refine import RefineSettings

TERMS = RefineSettings().terms


def blob(shift: float, shape: tuple[int, ...]) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(s, dtype=torch.float32) for s in shape], indexing="ij")
    centre = [s / 2 + shift * (a == 0) for a, s in enumerate(shape)]
    return torch.exp(-sum(((x - c) / 4) ** 2 for x, c in zip(axes, centre)))


def pair_of(shape, structures=2, spacing=None) -> LossPair:
    images = torch.stack([blob(-2, shape), blob(1, shape)])
    labels = (images > 0.3).float() + (images > 0.7).float()
    return LossPair(images, labels, structures, spacing or [1.0] * len(shape), name="a to b")


def values(ddf, pair) -> dict[str, float]:
    return {name: float(v) for name, v in RegistrationLoss(TERMS).evaluate(ddf, pair).items()}


@pytest.mark.parametrize("shape", [(24, 22), (20, 18, 10)])
def test_every_term_falls_at_the_true_shift(shape):
    pair = pair_of(shape, 3, [1.0] * (len(shape) - 1) + [3.0])
    still = torch.zeros(1, len(shape), *shape)
    before = values(still, pair)
    assert before["diffusion"] == 0
    right = still.clone()
    right[:, 0] = -3  # pulls from the moving blob, three voxels before the fixed one
    after = values(right, pair)
    assert after["dice"] < 0.02 < 0.2 < before["dice"]
    assert after["lncc"] < before["lncc"]
    assert after["contour"] < 0.05 < 1 < before["contour"]


def test_a_step_on_the_field_lowers_each_term():
    pair = pair_of((24, 22))
    torch.manual_seed(0)
    start = torch.randn(1, 2, 24, 22) * 0.2
    for key in TERMS:
        ddf = start.clone().requires_grad_()
        loss = RegistrationLoss({key: TERMS[key]}).evaluate(ddf, pair)[key]
        loss.backward()
        step = 0.05 * ddf.grad / ddf.grad.abs().max()
        with torch.no_grad():
            assert values(ddf - step, pair)[key] < float(loss), key


def test_without_masks_only_the_images_count():
    ddf = torch.zeros(1, 2, 12, 12, requires_grad=True)
    pair = LossPair(torch.rand(2, 12, 12), torch.zeros(2, 12, 12), 3, (1.0, 1.0))
    terms = RegistrationLoss(TERMS).evaluate(ddf, pair)
    sum(terms.values()).backward()
    assert float(terms["dice"].detach()) == 0 and float(terms["contour"].detach()) == 0
    assert torch.isfinite(ddf.grad).all()


def shifted(x: np.ndarray, rows: int) -> np.ndarray:
    """x(i + rows, j), the border repeated."""
    return x[np.clip(np.arange(len(x)) + rows, 0, len(x) - 1)]


def test_terms_equal_their_equations_written_out():
    """Equations 8, 9 and 10 by loops, at a field whose warp is known: two rows down."""
    shape = (14, 12)
    pair = pair_of(shape, 2, (2.0, 1.0))
    ddf = torch.zeros(1, 2, *shape)
    ddf[:, 0] = 2
    moved, fixed = shifted(pair.images[0].numpy().astype(np.float64), 2), pair.images[1].numpy().astype(np.float64)
    scores = []
    for i, j in np.ndindex(shape):
        window = slice(max(0, i - 2), i + 3), slice(max(0, j - 2), j + 3)
        a, b = moved[window] - moved[window].mean(), fixed[window] - fixed[window].mean()
        eps, n = 1e-4, a.size
        scores.append((a * b).sum() ** 2 / ((a**2).sum() + eps * n) / ((b**2).sum() + eps * n))
    assert float(LNCC(kernel=5)(ddf, pair)) == pytest.approx(1 - np.mean(scores), abs=2e-3)

    labels = [x.numpy() for x in pair.labels]
    dices = []
    for k in (1, 2):
        a, b = shifted(labels[0], 2) == k, labels[1] == k
        dices.append(1 - 2 * (a & b).sum() / (a.sum() + b.sum()))
    assert float(Dice()(ddf, pair)) == pytest.approx(np.mean(dices), abs=1e-4)

    torch.manual_seed(0)
    field = torch.randn(1, 2, *shape)
    u = field[0].numpy().astype(np.float64) * np.asarray((2.0, 1.0)).reshape(2, 1, 1)
    rows, columns = np.diff(u, axis=1) / 2.0, np.diff(u, axis=2) / 1.0
    expected = (rows**2).sum() / rows[0].size + (columns**2).sum() / columns[0].size
    assert float(Diffusion()(field, pair)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_the_weighted_sum_averaged_over_the_batch():
    terms = {"lncc": LNCC(2.0), "dice": Dice(3.0), "contour": Contour(0.5), "diffusion": Diffusion(0.0)}
    loss = RegistrationLoss(terms)
    assert set(loss.active) == {"lncc", "dice", "contour"}
    still = torch.zeros(1, 2, 24, 22)
    pairs = [pair_of((24, 22)), pair_of((24, 22), 1)]
    total = float(loss([(still, p) for p in pairs]))
    expected = np.mean(
        [2 * float(LNCC()(still, p)) + 3 * float(Dice()(still, p)) + 0.5 * float(Contour()(still, p)) for p in pairs]
    )
    assert total == pytest.approx(expected, rel=1e-5)
    assert loss.terms["lncc"] == pytest.approx(1 - float(lncc(pairs[0].images[None, :1], pairs[0].images[None, 1:])))


def test_a_value_that_is_not_finite_names_its_pair():
    pair = pair_of((24, 22))
    pair.images[0, 3, 3] = float("nan")
    with pytest.raises(FloatingPointError, match=r"The loss of a to b is not a number \(lncc\)"):
        RegistrationLoss(TERMS)([(torch.zeros(1, 2, 24, 22), pair)])
