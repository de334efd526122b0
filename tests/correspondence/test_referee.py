"""The referee of stages: a true field is kept, a wrong one is discarded, and doubts are written in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scripts.correspondence.matching import Matches
from scripts.correspondence.referee import Referee, common_slice, keep_better, overlap
from scripts.correspondence.regions import Regions
from scripts.correspondence.result import Registration
from scripts.correspondence.slicing import plan_slices
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.losses.similarity import local_mean
from scripts.spatial.geometry import Geometry
from scripts.spatial.warp import resize_ddf, warp

SHAPE, SPACING = (56, 56), (3.4, 3.4)


@pytest.fixture(scope="module")
def pair():
    return cardiac_pair(3, SHAPE, SPACING)


@pytest.fixture(scope="module")
def image(pair):
    return torch.from_numpy(np.stack([pair.moving, pair.fixed]) / 900).clamp(0, 1).float()


@pytest.fixture(scope="module")
def truth(pair):
    return torch.from_numpy(pair.ddf)[None]


def result_of(ddf, masks=None):
    masks = (torch.zeros(0, *SHAPE, dtype=torch.uint8),) * 2 if masks is None else masks
    plan = plan_slices(Geometry(SHAPE, np.diag([*SPACING, 1, 1])))
    count = len(masks[0])
    regions = Regions(torch.zeros(count, 4), torch.ones(count), torch.zeros(count, 2), None, plan)
    order = torch.arange(count)
    matches = Matches(order, order, torch.ones(count), torch.ones(count), 1.0)
    return Registration(regions, regions, matches, *masks, ddf=ddf)


def test_a_true_field_is_kept_and_its_opposite_is_not(image, truth):
    referee = Referee(image, SPACING)
    right, wrong = (referee.judge("the dense field", None, field) for field in (truth, -truth))
    assert right.kept and right.doubts == []
    assert right.after.information > right.before.information and right.after.structure < right.before.structure
    assert not wrong.kept
    assert "The dense field was discarded" in wrong.doubts[0]
    assert wrong.record()["after"]["information"] == pytest.approx(wrong.after.information, abs=1e-4)


def test_contrast_does_not_decide(image, truth):
    inverted = torch.stack([image[0], torch.where(image[1] > 0.05, 1 - image[1], image[1])])
    referee = Referee(inverted, SPACING)
    assert referee.judge("it", None, truth).kept
    assert not referee.judge("it", None, -truth).kept


def test_no_motion_is_kept(image):
    assert Referee(image, SPACING).judge("it", None, torch.zeros(1, 2, *SHAPE)).kept


def test_folds_and_volumes_are_doubted(image, truth):
    wild = truth + 2.5 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    referee = Referee(image, SPACING)
    # Measured against itself, so that only its own shape counts.
    said = " ".join(referee.judge("the field", wild, wild).doubts)
    assert "The field folds in" in said
    assert "changes volumes 0.00 to" in said


def test_volumes_are_those_of_the_body():
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 48)] * 2, indexing="ij")
    disc = ((axes[0] ** 2 + axes[1] ** 2).sqrt() < 0.6).float() * 0.8
    squeezed = 24 * torch.stack(axes)[None] * -0.9  # everything shrinks to a tenth of its sides
    air = (axes[0].abs() > 0.9) | (axes[1].abs() > 0.9)
    referee, everywhere = Referee(torch.stack([disc, disc]), (1.0, 1.0)), torch.ones(48, 48, dtype=torch.bool)
    assert referee.measure(squeezed * air, everywhere).volumes == pytest.approx((1, 1))
    low, high = referee.measure(squeezed * ~air, everywhere).volumes
    assert 0 < low < 0.02 and high < 0.02


def test_a_field_that_separates_regions_is_doubted(image, truth):
    disc = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    disc[0, 20:30, 20:30] = 255
    shift = torch.zeros_like(truth)
    shift[:, 0] = 5
    assert overlap(torch.zeros_like(truth), (disc, disc)) == pytest.approx(1)
    assert overlap(shift, (disc, disc)) == pytest.approx(0.5)
    assert overlap(shift, None) is None
    alike = image[1:].expand(2, -1, -1)
    flat = torch.zeros_like(alike)  # uninformative images, so the regions decide
    said = Referee(flat, SPACING).judge("the field", None, shift, (disc, disc)).doubts
    assert said == ["The field lowers the Dice of the matched regions from 1.00 to 0.50."]


def test_regions_that_overlap_far_better_keep_a_field_with_a_doubt(image, truth):
    """The images speak against a field; a pair of regions that it brings together speaks for it."""
    size = truth.square().sum(dim=1)[0]
    row, column = divmod(int(size.argmax()), SHAPE[1])
    disc = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    disc[0, row - 3 : row + 4, column - 3 : column + 4] = 255
    apart = warp(disc[None].float(), truth)[0].round().to(torch.uint8)
    referee = Referee(image, SPACING)
    for masks, kept in ((None, False), ((apart, disc), True), ((disc, apart), False)):
        verdict = referee.judge("it", None, -truth, masks)
        assert verdict.kept is kept
    assert verdict.after.regions < verdict.before.regions
    said = referee.judge("it", None, -truth, (apart, disc)).doubts
    assert "It is unclear whether it improves" in said[0]


def test_excluded_voxels_are_not_compared(pair, image, truth):
    weight = torch.ones_like(image)
    weight[1, 10:25, 20:40] = 0
    changed = image.clone()
    changed[1, 12:23, 22:38] = 1.0  # away from the border of the mask by the reach of the descriptors
    measured = []
    for one in (image, changed):
        referee = Referee(one, SPACING, weight)
        where = referee.seen(truth)
        assert not where[10:25, 20:40].any()
        measured.append(referee.measure(truth, where).information)
    assert measured[0] == measured[1]


def test_details_that_no_stage_has_seen_decide(image, truth):
    """A field that seems good on coarse images is discarded if it takes finer structure apart."""
    fine = F.interpolate(image[None], scale_factor=2, mode="bilinear")[0]
    noise = local_mean(torch.rand(1, 1, *fine.shape[1:], generator=torch.Generator().manual_seed(3)), [3, 3])[0]
    detail = torch.cat([fine[:1], fine[1:]]) + noise  # both show the same fine structure at the same place
    plain, informed = Referee(image, SPACING), Referee(image, SPACING, detail=detail)
    assert plain.judge("it", None, truth).kept
    verdict = informed.judge("it", None, truth)
    assert not verdict.kept and "details that it was not optimised for" in verdict.doubts[0]
    assert verdict.record()["after"]["detail"] > verdict.record()["before"]["detail"]
    moved = torch.cat([fine[:1] + noise, fine[1:] + warp(noise[None], resize_ddf(truth, noise.shape[1:]))[0]])
    assert Referee(image, SPACING, detail=moved).judge("it", None, truth).kept


def test_the_field_before_a_stage_comes_back(image, truth):
    referee = Referee(image, SPACING)
    result = result_of(-truth)
    keep_better(result, referee, "the dense field")
    assert result.discarded and not result.ddf.any() and len(result.doubts) == 1
    assert result.details["checks"]["the dense field"]["kept"] is False
    result = result_of(truth * -0.5)
    keep_better(result, referee, "the second stage", before=truth)
    assert torch.equal(result.ddf, truth) and not result.discarded


def test_motion_across_the_slices_does_not_part_masks_of_one_slice():
    disc = torch.zeros(6, 20, 20)
    disc[2, 6:14, 6:14] = 1
    ball = disc.clone()
    ball[1:4] = disc[2]
    along, across = torch.zeros(2, 1, 3, 6, 20, 20)
    along[:, 1], across[:, 0] = 2.0, 0.4
    assert overlap(across, (disc[None], disc[None])) == pytest.approx(1.0)
    assert overlap(along, (disc[None], disc[None])) == pytest.approx(6 / 8)
    assert overlap(along + across, (disc[None], disc[None])) == pytest.approx(6 / 8)
    assert overlap(across, (ball[None], ball[None])) == pytest.approx((2 + 0.6) / 3)
    # A field may bring a mask back from another slice, so these two are compared in space.
    assert overlap(torch.zeros_like(along), (disc.roll(1, 0)[None], disc[None])) == 0.0
    assert common_slice(disc.movedim(0, 2), disc.movedim(0, 2)) == 2 and common_slice(ball, disc) is None
