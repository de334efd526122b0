"""Points and boxes that cannot lead to a region are not asked for, and nothing that counts is lost by it."""

from __future__ import annotations

import torch

from scripts.roi.region_filter import RegionFilter
from scripts.sam.asked import AIR, in_air, in_window, mostly_within
from scripts.sam.boxes import BoxEverything
from scripts.sam.everything import EverythingMode
from scripts.sam.suppress import pairwise_overlap

WINDOW = (60, 50, 180, 150)


def test_air_around_a_patient_is_left_out_and_dark_organs_are_not():
    picture = torch.full((3, 40, 60), 3.0)
    picture[:, 10:30, 10:50] = 100.0
    picture[:, 15:25, 20:40] = 0.0  # dark, but not connected with the border
    points = torch.tensor([[5.0, 5.0], [30.0, 20.0], [12.0, 28.9], [55.5, 39.9], [49.9, 10.0]])
    assert in_air(points, picture).tolist() == [True, False, False, True, False]
    assert in_air(points, torch.zeros(3, 40, 60)).all()
    assert not in_air(points, torch.full((3, 40, 60), 200.0)).any()
    assert in_window(points, (20, 10, 50, 30)).tolist() == [False, True, False, False, True]


def test_boxes_mostly_in_a_window():
    boxes = torch.tensor([[60.0, 50, 100, 90], [40.0, 50, 140, 90], [44.0, 50, 144, 90], [0.0, 0, 20, 20]])
    assert mostly_within(boxes, WINDOW).tolist() == [True, False, True, False]


def test_only_regions_of_air_are_lost(bundled, picture):
    air = torch.zeros(1, 3, 300, 400)
    air[:, :, 50:250, 80:320] = picture
    settings = {"points_per_side": 10, "pred_iou_thresh": 0.35, "stability_score_thresh": 0.5}
    every, few = (EverythingMode(**settings, skip_air=skip)(bundled, air)[0] for skip in (False, True))
    every, few = (RegionFilter()(masks).masks() for masks in (every, few))
    lost = every[pairwise_overlap(every, few, "iou").amax(dim=1) < 0.9]
    assert len(few) >= 15 and len(few) + len(lost) == len(every)
    assert all(float(air[0, 0][mask].mean()) <= AIR for mask in lost)  # the noise of black air looked like something


def test_points_in_the_window_are_not_asked_and_those_around_it_are(bundled, picture):
    settings = {"points_per_side": 8, "pred_iou_thresh": 0.35, "stability_score_thresh": 0.5}
    whole, rest = (EverythingMode(**settings)(bundled, picture, w)[0] for w in (None, WINDOW))
    assert 0 < len(rest) < len(whole)
    assert in_window(whole.points, WINDOW).any() and not in_window(rest.points, WINDOW).any()
    everywhere = EverythingMode(**settings)(bundled, picture, (0, 0, 240, 200))[0]
    assert len(everywhere) == 0 and everywhere.masks().shape == (0, 200, 240)


def test_boxes_in_the_window_are_not_drawn(lite, picture):
    whole, rest = (BoxEverything()(lite, picture, w)[0] for w in (None, WINDOW))
    assert 0 < len(rest) < len(whole)
    ends = whole.boxes + torch.tensor([0.0, 0, 1, 1])
    assert mostly_within(ends, WINDOW).any()
