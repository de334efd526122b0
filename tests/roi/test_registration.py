"""The whole method on phantoms with the bundled weights: it finds regions, matches them, and improves the truth."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from scripts.common.errors import InputError
from scripts.correspondence.slicing import plan_slices
from scripts.data.pair import LoadPair, one_pair
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom
from scripts.metrics.pair import pair_metrics
from scripts.roi.dense import DenseSettings, roi_to_dense
from scripts.roi.matcher import Matcher
from scripts.roi.pairs import pair_motion, structure_pairs
from scripts.roi.region_filter import RegionFilter
from scripts.roi.registration import ROIRegistration
from scripts.sam.build import build_sam
from scripts.sam.everything import EverythingMode
from scripts.spatial.geometry import Geometry
from scripts.spatial.warp import warp


@pytest.fixture(scope="module")
def bundled():
    return build_sam("compact")


def register(**options) -> ROIRegistration:
    everything = EverythingMode(
        points_per_side=12,
        pred_iou_thresh=0.3,
        stability_score_thresh=0.5,
        stability_score_offset=0.3,
        mask_nms_thresh=0.9,
    )
    own = {key: options.pop(key) for key in tuple(options) if key in ("max_pairs", "position_sigma_mm", "strictness")}
    options = {"progress": False, "second_look": False, **options}
    return ROIRegistration(everything, RegionFilter(), DenseSettings(), Matcher(**{"strictness": 0, **own}), **options)


@pytest.fixture(scope="module", params=[2, 3])
def loaded(request, tmp_path_factory):
    grid = {2: ((128, 128), (1.5, 1.5)), 3: ((96, 96, 5), (2.0, 2.0, 12.0))}[request.param]
    paths = write_phantom(tmp_path_factory.mktemp("phantom"), cardiac_pair(8, *grid))
    return one_pair([LoadPair()(paths)])


def test_regions_match_and_the_field_improves_labels_and_landmarks(bundled, loaded):
    result = register()(loaded["image"], bundled)
    assert len(result.matches) >= 3
    assert result.moving_masks.shape == (len(result.matches), *loaded["pair"].working.shape)
    assert set(result.seconds) == {"segment", "match", "dense", "check"}
    metrics = pair_metrics(loaded["pair"], result.ddf)
    assert metrics["dice"]["final"]["mean"] > metrics["dice"]["initial"]["mean"] + 0.03
    assert metrics["tre_mm"]["final"]["mean"] < metrics["tre_mm"]["initial"]["mean"]
    assert metrics["field"]["folds_percent"] < 0.1


def test_same_input_same_result(bundled, loaded):
    first, second = (register()(loaded["image"], bundled) for _ in range(2))
    assert torch.equal(first.ddf, second.ddf)
    assert torch.equal(first.moving_masks.whole(), second.moving_masks.whole())


def test_an_image_matches_itself(bundled, loaded):
    moving, _ = loaded["image"].chunk(2, dim=1)
    result = register()(torch.cat([moving, moving], dim=1), bundled)
    assert torch.equal(result.matches.moving, result.matches.fixed)
    assert float(result.matches.similarity.min()) > 0.999
    assert float(result.ddf.abs().max()) < 0.2


def test_a_second_look_finds_more_regions_where_the_heart_beats(bundled, tmp_path):
    """A heart that moves in the middle of a large still body."""
    pair = cardiac_pair(8, (96, 96), (1.5, 1.5))
    body = np.zeros((256, 256), np.float32)
    body[30:226, 20:236] = 0.3 * pair.moving.max()
    images = []
    for heart in (pair.moving, pair.fixed):
        whole = body.copy()
        whole[90:186, 110:206] = heart
        images.append(torch.from_numpy(whole / body.max() / 3.4)[None])
    inputs = torch.cat(images)[None].clamp(0, 1)
    once, twice = (register(second_look=s, dense=False)(inputs, bundled) for s in (False, True))
    assert not once.fixed.looks.any() and twice.fixed.looks.any()
    closer = twice.fixed.looks[twice.matches.fixed] == 1
    assert torch.equal(closer, twice.moving.looks[twice.matches.moving] == 1)
    assert len(twice.matches) > len(once.matches)
    # The masks of the second look lie in its window, around the heart.
    masks = twice.fixed_masks.whole()[closer].float()
    assert float(masks[:, 70:206, 90:226].sum()) > 0.99 * float(masks.sum())


def test_pairs_say_how_far_the_field_moves_them(bundled, loaded):
    result = register(strictness=1.0)(loaded["image"], bundled)
    assert result.matches.certainty is None or len(result.matches.certainty) == len(result.matches)
    length = (result.ddf[0] * torch.tensor(loaded["pair"].working.spacing).view(-1, *[1] * result.ddf.shape[1])).norm(
        dim=0
    )
    share = result.fixed_masks[0] / result.fixed_masks[0].sum()
    assert float(result.motion_mm[0]) == pytest.approx(float((length * share).sum()), rel=1e-3)


def test_slices_matched_within_themselves(bundled, loaded):
    result = register(linking="slice", dense=False)(loaded["image"], bundled)
    assert result.ddf is None
    assert len(result.matches) >= 2
    axis = result.fixed.plan.axis
    if axis is not None:
        places = [r.centroids[m][:, axis] for r, m in
                  ((result.moving, result.matches.moving), (result.fixed, result.matches.fixed))]  # fmt: skip
        torch.testing.assert_close(*places)


@pytest.mark.parametrize(("thickness", "linked"), [(5.9, True), (6.1, False)])
def test_thick_slices_are_matched_one_by_one(thickness, linked):
    volume = Geometry((64, 64, 8), np.diag([1.5, 2.0, thickness, 1.0]))
    assert register().links(plan_slices(volume, 2), volume) is linked
    assert register(linking="link").links(plan_slices(volume, 2), volume)
    picture = Geometry((64, 64), np.diag([1.5, 2.0, thickness, 1.0]))
    assert register().links(plan_slices(picture), picture)


def test_after_an_alignment_far_regions_are_no_pair(bundled, loaded):
    result = register(dense=False)(loaded["image"], bundled)
    working = loaded["pair"].working
    assert result.details["linked"] is (len(working.shape) == 2)
    axis = next(a for a in range(len(working.shape)) if a != result.fixed.plan.axis)
    shift = torch.zeros(len(working.shape))
    shift[axis] = 0.3 * working.shape[axis]
    far = replace(result.fixed, centroids=result.moving.centroids[result.matches.moving] + shift,
                  prototypes=result.moving.prototypes[result.matches.moving])  # fmt: skip
    near = replace(far, centroids=far.centroids - shift)
    within = working.ndim == 3
    counts = [
        [len(Matcher(position_sigma_mm=s)(result.moving, regions, working, within)) for s in (0.0, None)]
        for regions in (near, far)
    ]
    assert counts[0][0] == counts[0][1] == counts[1][0] == len(result.matches) > 0
    assert counts[1][1] < len(result.matches) / 2


def test_degenerate_cases_are_said(bundled, loaded):
    none = register()
    none.everything.pred_iou_thresh = 1.0
    result = none(loaded["image"], bundled)
    assert result.ddf is None and len(result.matches) == 0
    assert result.warnings[0].startswith("No region was found in the moving image (0 masks after the filter); lower")
    strict = register()
    strict.matcher.epsilon = 1.0
    result = strict(loaded["image"], bundled)
    said = re.search(r"match above epsilon 1 \(the most similar two have (\d\.\d\d)\)", result.warnings[0])
    assert 0.8 < float(said[1]) <= 1
    single = register(max_pairs=1)(loaded["image"], bundled)
    assert single.warnings[0].startswith("Only one pair of regions was found")
    assert single.ddf is not None


def test_few_pairs_do_not_undo_an_alignment(bundled, loaded):
    """The outlines of a few regions are less sure than an affine map of the whole images."""
    n = loaded["pair"].working.ndim
    few = register(max_pairs=n, position_sigma_mm=None)(loaded["image"], bundled)
    assert len(few.matches) == n and few.ddf.shape[1] == n and not few.ddf.any()
    assert few.warnings[0].startswith(f"Too few pairs of regions ({n}) were found")
    assert register(max_pairs=n + 1, position_sigma_mm=None, check=False)(loaded["image"], bundled).ddf.any()
    assert register(max_pairs=n, check=False)(loaded["image"], bundled).ddf.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"linking": "tree"}, "'tree'"), ({"slice_spacing_mm": -3}, "slice_spacing_mm must not be negative, got -3")],
)
def test_bad_settings(options, message):
    with pytest.raises(InputError, match=message):
        ROIRegistration(EverythingMode(), RegionFilter(), DenseSettings(), **options)


def test_structures_known_by_name_lead_where_there_is_nothing_else():
    """Flat images and no regions: only the masks by name can say where things went."""
    labels = torch.zeros(2, 48, 48)
    labels[1, 16:28, 16:28] = 2
    labels[0, 22:34, 16:28] = 2
    labels[0, :4, :4] = 1  # a structure that the fixed image does not have
    moving, fixed = structure_pairs(labels)
    assert moving.shape == (1, 48, 48)
    none = torch.zeros(0, 48, 48, dtype=torch.uint8)
    flat = torch.full((1, 48, 48), 0.5)
    settings = DenseSettings(discrete=True, image_weight=10.0, smoothness=1.0)
    found = roi_to_dense(none, none, (1, 1), settings, named=(moving, fixed), images=(flat, flat))
    moved = warp(moving[None].float() / 255, found.ddf, padding="zeros")[0, 0]
    overlap = 2 * (moved * fixed[0] / 255).sum() / (moved.sum() + 144)
    assert overlap > 0.95
    assert structure_pairs(torch.zeros(2, 4, 4)) is None


def test_no_pairs_have_no_motion():
    assert pair_motion(torch.ones(1, 2, 4, 4), torch.zeros(0, 4, 4, dtype=torch.uint8), (1.0, 2.0)).shape == (0,)
