"""Filter, prototypes and linking on masks with known answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from scripts.common.errors import InputError
from scripts.correspondence.slicing import SlicePlan
from scripts.roi.region_filter import RegionFilter, outside, visible
from scripts.roi.regions import edge_coverage, find_regions, joined, link_slices, slice_prototypes
from scripts.sam.slice_masks import SliceMasks

E = 8  # side of the embedding; masks have 32 x 32 cells


def masks_of(boxes, quality=None, embedding=None, size=(64, 64)) -> SliceMasks:
    """Rectangular masks (x0, y0, x1, y1 in low-resolution cells) on a slice."""
    logits = torch.full((len(boxes), 4 * E, 4 * E), -6.0)
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        logits[k, y0:y1, x0:x1] = 6.0
    quality = torch.linspace(0.99, 0.9, len(boxes)) if quality is None else torch.tensor(quality)
    embedding = torch.rand(4, E, E) if embedding is None else embedding
    empty = SliceMasks.empty(embedding, (4 * E, 4 * E), 4 * E, size, 0.0)
    return empty.with_masks(logits, quality, torch.ones(len(boxes)), torch.zeros(2))


def test_prototype_is_the_mean_feature_even_of_a_part_of_a_cell():
    embedding = torch.randn(4, E, E)
    masks = masks_of([(0, 0, 8, 4), (5, 5, 6, 6), (0, 0, 0, 0)], embedding=embedding)
    prototypes, weights = slice_prototypes(masks)
    torch.testing.assert_close(prototypes[0], embedding[:, 0, :2].mean(dim=1))
    torch.testing.assert_close(prototypes[1], embedding[:, 1, 1])
    torch.testing.assert_close(weights, torch.tensor([2.0, 1 / 16, 0.0]))
    assert (prototypes[2] == 0).all()


def test_prototype_weights_cells_by_coverage():
    embedding = torch.zeros(1, E, E)
    embedding[0, 0, 0], embedding[0, 0, 1] = 1.0, 5.0
    prototype, _ = slice_prototypes(masks_of([(3, 0, 7, 4)], embedding=embedding))
    assert float(prototype[0, 0]) == pytest.approx((1 * 1 + 3 * 5) / 4)


def test_area_and_border():
    keep = RegionFilter(min_area=0.01, max_area=0.2, max_border=0.1)
    kept = keep(masks_of([(4, 4, 10, 10), (4, 4, 6, 6), (2, 2, 30, 30), (0, 6, 6, 20)]))
    torch.testing.assert_close(kept.boxes, torch.tensor([[8.0, 8, 19, 19]]))
    loose = RegionFilter(min_area=0.0, max_area=1.0, max_border=1.0, max_overlap=1.0)
    assert len(loose(masks_of([(4, 4, 10, 10), (4, 4, 6, 6), (2, 2, 30, 30), (0, 6, 6, 20)]))) == 4
    assert len(keep(masks_of([]))) == 0


def test_area_in_mm2_replaces_the_share_where_pixels_have_a_size():
    masks = masks_of([(4, 4, 6, 6), (8, 8, 14, 14), (2, 2, 20, 20)])  # 16, 144 and 1296 of 64 x 64 pixels
    keep = RegionFilter(min_area=0.03, max_area=0.2, min_area_mm2=60.0, max_area_mm2=600.0)
    sides = {pixel: (keep(masks, pixel).boxes[:, 2] - keep(masks, pixel).boxes[:, 0] + 1).tolist() for pixel in (1, 4)}
    assert sides == {1: [12.0], 4: [4.0, 12.0]}
    assert keep(masks).boxes[:, 0].tolist() == [16.0]  # of unknown size: between 3 and 20 % of the slice
    assert len(RegionFilter(0.03, 0.2, max_area_mm2=5000.0)(masks, 1)) == 2  # each limit for itself


def test_masks_in_excluded_voxels_are_no_regions():
    look = torch.ones(64, 64)
    look[:, :20] = 0  # columns 0 to 9 of the low-resolution masks
    masks = masks_of([(0, 4, 9, 10), (4, 4, 14, 10), (8, 4, 20, 10), (12, 4, 20, 10)], [0.9, 0.8, 0.7, 0.6])
    assert visible(masks, look).predicted_iou.tolist() == pytest.approx([0.7, 0.6])
    assert len(visible(masks, torch.ones(64, 64))) == 4


def test_overlap_measures():
    boxes = [(4, 4, 20, 20), (6, 6, 12, 12), (5, 4, 21, 20)]
    paper = RegionFilter(0, 1, 0.8, "smaller", 1)(masks_of(boxes, [0.95, 0.99, 0.9]))
    assert paper.predicted_iou.tolist() == pytest.approx([0.99])  # the nested one wins, both large ones contain it
    nested = RegionFilter(0, 1, 0.8, "iou", 1)(masks_of(boxes, [0.95, 0.99, 0.9]))
    assert nested.predicted_iou.tolist() == pytest.approx([0.99, 0.95])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"overlap": "dice"}, "'dice'"),
        ({"min_area": 0.5, "max_area": 0.2}, "0.5 and 0.2"),
        ({"max_area": 2}, "and 2"),
        ({"min_area_mm2": 50.0, "max_area_mm2": 20.0}, "50.0 and 20.0"),
        ({"min_area_mm2": -1.0}, "-1.0 and None"),
    ],
)
def test_bad_filters(fields, message):
    with pytest.raises(InputError, match=message):
        RegionFilter(**fields)


def test_linking_follows_the_structure_through_slices():
    left, right = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.0, 1, 0, 0])
    embedding = torch.zeros(4, E, E)
    embedding[:, :, :4], embedding[:, :, 4:] = left[:, None, None], right[:, None, None]
    slices = [
        masks_of([(2, 4, 12, 14), (18, 4, 28, 14)], embedding=embedding),
        masks_of([(19, 4, 29, 14), (3, 4, 13, 14)], embedding=embedding),
        masks_of([(3, 5, 13, 15)], embedding=embedding),
    ]
    prototypes = [slice_prototypes(s)[0] for s in slices]
    runs = link_slices(slices, prototypes, 0.3, 0.6)
    assert sorted(map(tuple, runs)) == [((0, 0), (1, 1), (2, 0)), ((0, 1), (1, 0))]
    # A place that looks like something else is not the same region, however well it overlaps.
    prototypes[1] = prototypes[1].flip(0)
    assert sorted(len(r) for r in link_slices(slices, prototypes, 0.3, 0.6)) == [1, 1, 1, 1, 1]


def test_regions_have_centroids_areas_and_masks_on_the_grid():
    plan = SlicePlan(2, (0, 1, 2), 3, True, (False, False))
    embedding = torch.rand(4, E, E)
    slices = [masks_of([(8, 4, 16, 12)], embedding=embedding) for _ in range(3)]
    regions = find_regions(slices, plan, RegionFilter(max_border=1.0), link=True)
    assert len(regions) == 1
    torch.testing.assert_close(regions.centroids[0], torch.tensor([23.5, 15.5, 1.0]), atol=0.01, rtol=0)
    assert float(regions.areas[0]) == pytest.approx(3 * 16 * 16)
    mask = regions.masks([0])
    assert mask.shape == (1, 64, 64, 3)
    expected = torch.zeros(64, 64, 3)
    expected[16:32, 8:24] = 1
    assert float(((mask[0] > 127) == (expected > 0.5)).float().mean()) > 0.99
    apart = find_regions(slices, plan, RegionFilter(max_border=1.0), link=False)
    assert len(apart) == 3
    assert find_regions(slices, plan, RegionFilter(0.0, 0.001), link=True).masks([]).shape == (0, 64, 64, 3)


def test_masks_between_planned_slices_are_interpolated():
    plan = SlicePlan(2, (1, 4, 7, 10), 12, True, (False, True))
    slices = [masks_of([(8, 4, 16, 12)], embedding=torch.rand(4, E, E)) for _ in range(4)]
    regions = find_regions(slices, plan, RegionFilter(max_border=1.0), link=False)
    stack = torch.zeros(4, 64, 64)
    stack[1] = edge_coverage(slices[1].logits_at((64, 64))[0], slices[1].threshold) * 255
    (k,) = [k for k in range(4) if regions.members[k] == [(1, 0)]]
    mask = regions.masks([k])[0]
    torch.testing.assert_close(mask, plan.place(stack).round().to(torch.uint8), rtol=0, atol=0)
    assert mask.amax(dim=(0, 1)).tolist() == [0, 0, 85, 170, 255, 170, 85, 0, 0, 0, 0, 0]


def test_a_second_look_puts_regions_where_they_are_on_the_whole_slice():
    """A window from column 40 and row 20 of slices of 100 x 120 pixels, with one square region in it."""
    plan = SlicePlan(2, (0, 1), 2, True, (False, True))
    embedding = torch.rand(4, E, E)
    first = [replace(masks_of([], embedding=embedding), size=(100, 120)) for _ in range(2)]
    closer = [masks_of([(8, 4, 16, 12)], embedding=embedding) for _ in range(2)]
    whole = find_regions(first, plan, None)
    inner = find_regions(closer, plan, RegionFilter(max_border=1.0), corner=(40, 20), size=(100, 120))
    both = joined(whole, inner)
    assert len(both) == 1 and both.looks.tolist() == [1]
    mask = both.masks([0])[0]
    assert mask.shape == (120, 100, 2)
    columns, rows, _ = (mask > 127).nonzero().float().T
    # 64 pixels of the window show 32 cells: two pixels a cell; columns run backwards.
    assert (columns.min(), columns.max()) == (119 - (40 + 31), 119 - (40 + 16))
    assert (rows.min(), rows.max()) == (20 + 8, 20 + 23)
    torch.testing.assert_close(both.centroids[0], torch.tensor([columns.mean(), rows.mean(), 0.5]), atol=0.01, rtol=0)


def test_masks_inside_the_window_leave_the_first_look():
    masks = masks_of([(8, 4, 16, 12), (0, 0, 6, 6), (4, 4, 30, 12)])
    kept = outside(masks, (14, 6, 40, 40))
    assert kept.boxes[:, 0].tolist() == [0, 8]
