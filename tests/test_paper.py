"""The overlay of the paper: its numbers, whatever the model, and a run."""

from __future__ import annotations

import json

import pytest
import torch
from monai.data import MetaTensor

from scripts.common.bundle import CONFIGS
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.sam.everything import EverythingMode
from scripts.workflow.record import flat_settings
from tests.test_configs import parsed

PAPER = "paper/samreg.json"


@pytest.mark.parametrize("sam", [[], *[[f"sam/{p.name}"] for p in sorted((CONFIGS / "sam").glob("*.json"))]])
def test_the_settings_are_those_of_the_paper_with_every_model(sam):
    parser = parsed(["samreg.json", *sam, PAPER])
    overlay = json.loads((CONFIGS / PAPER).read_text(encoding="utf-8"))
    assert overlay["points_per_side"] == 32
    assert overlay["pred_iou_thresh"] == overlay["stability_score_thresh"] == 0.9
    assert overlay["epsilon"] == overlay["max_overlap"] == 0.8
    assert (overlay["min_area"] * 200 * 200, overlay["max_area"] * 200 * 200) == (200, 7000)
    everything = parser.get_parsed_content("everything")
    if isinstance(everything, EverythingMode):  # models that take boxes have no grid of points
        assert (everything.stability_score_offset, everything.skip_air) == (1.0, False)
    settings = parser.get_parsed_content("dense_settings")
    assert not settings.compares_images
    assert (settings.levels, settings.steps) == (3, 30)
    for key in overlay:
        assert parser[key.replace("::", "#")] == overlay[key], key
    recorded = flat_settings(parser.get_parsed_content("parameters")) if not sam else {}
    if recorded:
        assert recorded["registration.linking"] == "link"


@pytest.mark.slow
def test_it_runs():
    parser = parsed(
        ["samreg.json", PAPER], progress=False, device="cpu", pred_iou_thresh=0.5, stability_score_thresh=0.7
    )
    pair = cardiac_pair(0, shape=(96, 96, 3))
    image = torch.stack([torch.from_numpy(x) / 400 for x in (pair.moving, pair.fixed)]).clamp(0, 1)[None]
    found = parser.get_parsed_content("inferer")(
        MetaTensor(image, affine=torch.eye(4)), parser.get_parsed_content("network")
    )
    assert len(found.matches) > 0
    assert len(found.details["steps"]) == 3
    assert found.details["linked"]
    assert found.confidence is None
