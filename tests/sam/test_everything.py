"""Everything mode against segment_anything's own generator on the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator

from scripts.common.errors import InputError
from scripts.data.phantoms.abdomen import abdomen_pair
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.sam.build import build_sam
from scripts.sam.everything import EverythingMode, stability_score, without_small_regions
from scripts.sam.suppress import keep_distinct, pairwise_overlap

THRESHOLDS = {"pred_iou_thresh": 0.35, "stability_score_thresh": 0.5, "stability_score_offset": 0.3}


def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    """Share of the masks of ``a`` that have one of ``b`` at IoU >= 0.9."""
    return float((pairwise_overlap(a, b, "iou") >= 0.9).any(dim=1).float().mean())


def phantom_slice() -> torch.Tensor:
    image = torch.from_numpy(abdomen_pair(21, (256, 192), (1.5, 1.5)).moving).T.clamp(-125, 275)
    return ((image + 125) / 400 * 255).round().expand(1, 3, -1, -1)


def heart_slice() -> torch.Tensor:
    image = torch.from_numpy(cardiac_pair(11, (256, 192), (0.9, 0.9)).moving).T
    return (image / image.max() * 255).round().expand(1, 3, -1, -1)


def both_agree(sam, slices, **options) -> None:
    """Both generators find the same masks: 95 % of either have one of the other at IoU >= 0.9."""
    shares = []
    for slice_ in slices:
        pixels = slice_[0].permute(1, 2, 0).numpy().astype(np.uint8)
        theirs = SamAutomaticMaskGenerator(sam, points_per_side=12, **THRESHOLDS, **options).generate(pixels)
        expected = torch.from_numpy(np.stack([m["segmentation"] for m in theirs]))
        ours = EverythingMode(points_per_side=12, mask_nms_thresh=1.0, skip_air=False, **THRESHOLDS, **options)
        found = ours(sam, slice_)[0].masks()
        assert len(expected) >= 5
        shares.append(
            [
                agreement(found, expected) * len(found),
                len(found),
                agreement(expected, found) * len(expected),
                len(expected),
            ]
        )
    ours, ours_total, theirs, theirs_total = np.sum(shares, axis=0)
    assert ours >= 0.95 * ours_total
    assert theirs >= 0.95 * theirs_total


@pytest.mark.parametrize("layers", [0, 1])
def test_agrees_with_the_packages_generator(bundled, picture, layers):
    both_agree(bundled, (picture, phantom_slice(), heart_slice()), crop_n_layers=layers)


def test_batches_of_slices_and_points_change_nothing(bundled, picture):
    stack = torch.cat([picture, picture.flip(3), picture.flip(2)])
    together = EverythingMode(points_per_side=6, slices_per_batch=3, points_per_batch=36, **THRESHOLDS)(bundled, stack)
    apart = EverythingMode(points_per_side=6, slices_per_batch=1, points_per_batch=7, **THRESHOLDS)(bundled, stack)
    for a, b in zip(together, apart):
        assert len(a) == len(b) > 0
        torch.testing.assert_close(a.logits, b.logits, atol=1e-2, rtol=1e-3)
        torch.testing.assert_close(a.boxes, b.boxes)


def test_a_lower_precision_of_the_encoder_finds_the_same(bundled, picture):
    half = build_sam(precision="bfloat16")
    settings = {"points_per_side": 8, **THRESHOLDS}
    exact, fast = (EverythingMode(**settings)(sam, picture)[0] for sam in (bundled, half))
    similarity = torch.nn.functional.cosine_similarity(exact.embedding, fast.embedding, dim=0)
    assert fast.embedding.dtype == torch.float32
    assert 0.99 < float(similarity.min()) < 0.99999  # it did run in another precision
    assert agreement(exact.masks(), fast.masks()) > 0.7


def test_thresholds_and_scores(bundled, picture):
    found = EverythingMode(points_per_side=8, **THRESHOLDS)(bundled, picture)[0]
    assert (found.predicted_iou > 0.35).all()
    assert (found.stability >= 0.5).all()
    assert (found.predicted_iou.diff() <= 0).all()
    assert found.masks().shape == (len(found), 200, 240)
    assert found.embedding.shape == (128, 24, 24)
    assert found.inner == pytest.approx((24 * 213 / 256, 24), abs=0.1)
    x, y = found.points[0].long().tolist()
    boxes = found.boxes
    assert (boxes[:, 2] <= 240).all() and (boxes[:, 3] <= 200).all()
    assert 0 <= x < 240 and 0 <= y < 200
    nothing = EverythingMode(points_per_side=4, pred_iou_thresh=1.0)(bundled, picture)[0]
    assert len(nothing) == 0
    assert nothing.masks().shape == (0, 200, 240)


def test_mask_suppression_drops_duplicates(bundled, picture):
    loose, strict = (
        EverythingMode(points_per_side=8, box_nms_thresh=1.0, mask_nms_thresh=t, **THRESHOLDS)(bundled, picture)[0]
        for t in (1.0, 0.7)
    )
    assert 0 < len(strict) < len(loose)
    overlap = pairwise_overlap(strict.logits > 0, strict.logits > 0, "iou").fill_diagonal_(0)
    assert float(overlap.max()) <= 0.7


def test_bad_settings():
    with pytest.raises(InputError, match=r"pred_iou_thresh must lie in \[0, 1\], got 1.5"):
        EverythingMode(pred_iou_thresh=1.5)
    with pytest.raises(InputError, match="got 0 and 0"):
        EverythingMode(points_per_side=0)


def test_stability_of_a_ramp():
    # A logit ramp from -5 to 5: above +1 lie 4 of 10 parts, above -1 lie 6.
    ramp = torch.linspace(-5, 5, 1001).expand(1, 1, -1)
    assert float(stability_score(ramp, 0.0, 1.0)) == pytest.approx(4 / 6, abs=0.01)


def test_greedy_suppression_equals_a_loop():
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(40, 6, 6, generator=generator) > 0.5
    overlap = pairwise_overlap(masks, masks, "iou")
    for threshold in (0.2, 0.35, 0.5):
        kept: list[int] = []
        for i in range(40):
            if all(overlap[j, i] <= threshold for j in kept):
                kept.append(i)
        assert keep_distinct(masks, threshold).nonzero()[:, 0].tolist() == kept
    nested = torch.zeros(2, 4, 4, dtype=torch.bool)
    nested[0], nested[1, :2] = True, True
    assert float(pairwise_overlap(nested, nested, "smaller")[0, 1]) == 1
    assert float(pairwise_overlap(nested, nested, "iou")[0, 1]) == 0.5


def test_small_regions_go_and_holes_close():
    logits = torch.full((1, 20, 20), -3.0)
    logits[0, 3:15, 3:15] = 3.0
    logits[0, 8, 8] = -2.0
    logits[0, 18, 18] = 4.0
    cleaned = without_small_regions(logits, 0.0, 4) > 0
    expected = torch.zeros(1, 20, 20, dtype=torch.bool)
    expected[0, 3:15, 3:15] = True
    assert torch.equal(cleaned, expected)
