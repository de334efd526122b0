"""Instance optimisation of one pair."""

from __future__ import annotations

import pytest
import torch

from scripts.common.errors import InputError
from scripts.losses.overlap import Dice, soft_dice_loss
from scripts.losses.pair import LossPair
from scripts.losses.similarity import LNCC, lncc
from scripts.losses.smoothness import Diffusion
from scripts.network.refine import RefineSettings, refine
from scripts.spatial.warp import warp


def discs(size=32):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    labels = torch.stack([((y - size / 2 - s) ** 2 + (x - size / 2) ** 2 < 64).float() for s in (-1.5, 1.5)])
    return labels * 0.5 + 0.2, labels


@pytest.mark.parametrize("with_masks", [True, False])
def test_it_improves_a_bad_field(with_masks):
    images, labels = discs()
    still = torch.zeros(1, 2, 32, 32)
    settings = RefineSettings(steps=30, learning_rate=0.3)
    with torch.inference_mode():  # as MONAI's evaluators call it
        ddf, history = refine(still, LossPair(images, labels * with_masks, 1, (1.0, 1.0)), settings)
    assert min(history) < 0.7 * history[0]
    inside = ddf[0, 0][(labels[1] > 0)]
    assert -4 < float(inside.mean()) < -1.5  # pull: the moving disc lies three rows before the fixed one


def test_excluded_voxels_have_no_influence():
    images, labels = discs()
    valid = torch.ones_like(images)
    valid[1, 10:16, 8:14] = 0
    settings = RefineSettings(steps=6, learning_rate=0.3)
    fields = []
    for value in (0.0, 1.0):
        changed, masks = images.clone(), labels * (valid > 0)
        changed[1, 10:16, 8:14] = value
        # LNCC averages over windows, so excluded voxels are filled first, as in LoadPair.
        filled = torch.where(valid > 0, changed, 0.45)
        pair = LossPair(filled, masks, 1, (1.0, 1.0), valid=valid)
        fields.append(refine(torch.zeros(1, 2, 32, 32), pair, settings)[0])
    assert torch.equal(*fields)
    pair = LossPair(images, labels, 1, (1.0, 1.0), valid=valid)
    ddf = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    look = pair.look(ddf)
    assert (look[0, 0, 10:16, 8:14] == 0).all() and look.mean() > 0.9
    dice = Dice()(ddf, pair)
    moved = warp(labels[None, :1], ddf)[0] * look[0]
    torch.testing.assert_close(dice, soft_dice_loss(moved, labels[1:] * look[0]).mean())
    torch.testing.assert_close(LNCC()(ddf, pair), 1 - lncc(warp(images[None, :1], ddf), images[None, 1:], mask=look))


def test_no_steps_and_no_gain_leave_the_prediction():
    images, labels = discs()
    ddf = torch.randn(1, 2, 32, 32) * 0.01
    same, history = refine(ddf, LossPair(images, labels, 1, (1.0, 1.0)), RefineSettings(steps=0))
    torch.testing.assert_close(same, ddf)
    assert len(history) == 1
    perfect = images[1:].expand(2, -1, -1)
    settings = RefineSettings(steps=40, patience=3, terms={"diffusion": Diffusion()})
    kept, history = refine(torch.zeros(1, 2, 32, 32), LossPair(perfect, labels, 1, (1.0, 1.0)), settings)
    assert len(history) == 4 and not kept.any()
    with pytest.raises(InputError, match="must not be negative, got -1"):
        RefineSettings(steps=-1)
