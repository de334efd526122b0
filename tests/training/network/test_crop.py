"""Cropping pairs to their structures: nothing is cut, in mm, and on real hearts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from scripts.data.pair import LoadPair
from scripts.data.pair_lists import acdc_pairs
from scripts.data.structures import AddMasks, PairTensors
from scripts.training.network.augment import CropAroundMasks

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def pair(shape=(40, 30, 8)) -> dict:
    data = {key: torch.zeros(2, *shape) for key in ("image", "masks", "targets", "labels")}
    data["image"] += torch.arange(shape[0]).view(-1, 1, 1)  # shows where a crop comes from
    data["targets"][0, 10:15, 12:20, 2:4] = 1
    data["targets"][1, 12:22, 10:14, 3:6] = 2
    return {**data, "spacing": torch.tensor([1.5, 2.0, 10.0]), "name": "a"}


def test_the_box_of_both_images_and_a_margin_in_mm():
    data = pair()
    cropped = CropAroundMasks(6.0)(data)
    # 6 mm are 4, 3 and 1 voxels.
    box = (slice(None), slice(6, 26), slice(7, 23), slice(1, 7))
    for key in ("image", "masks", "targets", "labels"):
        assert torch.equal(cropped[key], data[key][box])
        assert cropped[key].untyped_storage().nbytes() < data[key].untyped_storage().nbytes()
    assert float(cropped["image"][0, 0, 0, 0]) == 6 and cropped["name"] == "a"
    huge = CropAroundMasks(1000.0)(data)
    assert torch.equal(huge["image"], data["image"])


def test_whole_images_without_a_margin_or_without_structures():
    data = pair()
    assert CropAroundMasks()(data)["image"] is data["image"]
    data["targets"] *= 0
    assert CropAroundMasks(6.0)(data)["image"] is data["image"]


@pytest.mark.slow
def test_no_training_heart_is_cut(real_data, tmp_path):
    pairs = acdc_pairs(str(real_data), "training", str(tmp_path), 0)[::10]
    load, add, tensors = (
        LoadPair(window="mr", max_size=256, reorient=True),
        AddMasks(["rv", "myo", "lv"], "label"),
        PairTensors(),
    )
    for row in pairs:
        whole = tensors(add(load(row)))
        cropped = CropAroundMasks(20.0)(whole)
        assert int((cropped["labels"] > 0).sum()) == int((whole["labels"] > 0).sum()) > 0
        assert cropped["image"].numel() < whole["image"].numel()


def test_hearts_are_seen_whole():
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in ("train.json", "datasets/acdc.json")])
    crop = parser.get_parsed_content("train#random#crop")
    pair = {key: torch.rand(1, 40, 150, 13) for key in ("image", "masks", "targets", "labels")}
    assert all(torch.equal(value, pair[key]) for key, value in crop(pair).items())
