"""Which subjects a training sees, and which masks: the overlays of the data sets on small files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from scripts.data import pair_lists, protocol
from scripts.data.reader import read_volume
from tests.training.network.test_training_config import SMALL, lists, run, workflow_of  # noqa: F401 a fixture

AFFINE = np.diag([3.0, 3.0, 4.0, 1.0])


def parsed(bundle, dataset, data, tmp_path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / name) for name in ("train.json", f"datasets/{dataset}.json")])
    parser.update({"bundle_root": str(bundle), "data_dir": str(data), "dataset_dir": str(tmp_path / "cache")})
    return parser


def names_in(parser, key) -> set[str]:
    return {pair[f"{role}_subject"] for pair in parser.get_parsed_content(key) for role in ("moving", "fixed")}


def write_split(root, name, training, validation) -> None:
    (root / "splits").mkdir(exist_ok=True)
    content = {"training": training, "validation": validation}
    (root / "splits" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def test_weights_are_selected_on_training_subjects(bundle, tmp_path):
    training, validation = [f"patient{n:03d}" for n in range(14)], ["patient100"]
    write_split(tmp_path, "acdc", training, validation)
    for name in training + validation:
        folder = tmp_path / "acdc" / name
        folder.mkdir(parents=True)
        (folder / "Info.cfg").write_text("ED: 1\nES: 12\n", encoding="utf-8")
        for stem in ("frame01", "frame01_gt", "frame12", "frame12_gt"):
            nib.save(nib.Nifti1Image(np.zeros((4, 4, 2), np.int16), AFFINE), folder / f"{name}_{stem}.nii.gz")
    parser = parsed(bundle, "acdc", tmp_path, tmp_path)
    trained, selected, measured = (names_in(parser, f"{k}_list") for k in ("training", "selection", "validation"))
    assert measured == set(validation) and trained | selected == set(training)
    assert selected == {"patient004", "patient013"} and not trained & selected
    assert len(parser.get_parsed_content("train#data")) == 12
    first = Path(parser.get_parsed_content("selection_list")[0]["moving"])  # whole, not a crop
    assert first == tmp_path / "acdc" / "patient004" / "patient004_frame01.nii.gz"


@pytest.fixture
def abdomens(tmp_path, monkeypatch):
    """16 boxes with the labels 1, 4 and 13, in which an affine alignment would find nothing."""
    names = [f"{n:04d}" for n in range(16)]
    write_split(tmp_path, "learn2reg", names[:13] + names[15:], names[13:15])
    folder = tmp_path / "abdomen_ct"
    folder.mkdir()
    labels = np.zeros((14, 12, 10), np.uint8)
    labels[3:7, 3:8, 3:7], labels[8:10, 3:8, 3:7], labels[10:12, 5:8, 3:7] = 1, 4, 13
    for k, name in enumerate(names):
        image = labels * 10 + np.arange(14)[:, None, None] + k
        nib.save(nib.Nifti1Image(image.astype(np.int16), AFFINE), folder / f"img{name}.nii.gz")
        nib.save(nib.Nifti1Image(labels, AFFINE), folder / f"label{name}.nii.gz")

    def no_start(pair, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(path, np.eye(4))
        return str(path)

    monkeypatch.setattr(pair_lists, "affine_start", no_start)
    return tmp_path


def test_cubes_of_the_learn2reg_protocol(abdomens):
    (pair,) = protocol.learn2reg_pairs(str(abdomens), "validation", str(abdomens / "cache"), side=20)
    assert pair["name"] == "0013 to 0014" and pair["init"].endswith("0013_to_0014.txt")
    image, label = (read_volume(pair[key]) for key in ("moving", "moving_label"))
    assert image.geometry.shape == (20, 20, 20)
    np.testing.assert_allclose(image.geometry.spacing, (2, 2, 2))
    # The centres of the image and of its cube are the same point.
    old, new = (np.asarray(s) / 2 - 0.5 for s in ((14, 12, 10), (20, 20, 20)))
    np.testing.assert_allclose(image.geometry.affine[:3, :3] @ new + image.geometry.affine[:3, 3], old * [3, 3, 4])
    assert set(np.unique(label.array)) == {0, 1, 12}  # without the gallbladder
    # A voxel of the cube shows the voxel of the image at the same place.
    place = np.rint((image.geometry.affine[:3, :3] @ [4, 9, 9] + image.geometry.affine[:3, 3]) / [3, 3, 4]).astype(int)
    assert int(label.array[0, 4, 9, 9]) == int(
        nib.load(abdomens / "abdomen_ct" / "label0013.nii.gz").dataobj[tuple(place)]
    )
    again = protocol.learn2reg_pairs(str(abdomens), "training", str(abdomens / "cache"), side=20)
    assert len(again) == 14 * 13 // 2


def test_the_learn2reg_protocol_trains(bundle, abdomens):
    parser = parsed(bundle, "learn2reg", abdomens, abdomens)
    parser.update({"side": 16})
    assert len(parser.get_parsed_content("train#data")) == 12 * 11 // 2
    assert names_in(parser, "selection_list") == {"0004", "0015"} and parser.get_parsed_content("crop") == [16] * 3
    options = {"data_dir": str(abdomens), "dataset_dir": str(abdomens / "cache"), "side": 16, "max_epochs": 1}
    arguments = "(@data_dir, 'inner_training', @dataset_dir, side=@side)"
    options |= {"training_list": f"$learn2reg_pairs{arguments}[:2]", "network_def#channels": [4, 8], "amp": None}
    out = abdomens / "out"
    trained = run(
        workflow_of(bundle, ["train.json", "datasets/learn2reg.json"], output_dir=str(out), val_interval=1, **options)
    )
    assert (out / "best.pt").exists()
    assert trained.parser.get_parsed_content("network").network.structures == 12
    loss = trained.parser.get_parsed_content("loss_function")
    assert 0 < loss.terms["dice"] < 1


def test_a_training_on_masks_as_a_source_makes_them(bundle, lists, tmp_path):  # noqa: F811
    """The network sees the mask files without synthetic errors, and the losses see the label maps."""
    with open(lists["pairs"], encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        for role in ("moving", "fixed"):
            label = nib.load(row[f"{role}_label"])
            shifted = np.roll(np.asarray(label.dataobj), 2, axis=0)
            row[f"{role}_mask"] = str(tmp_path / f"{row['name']}_{role}_masks.nii.gz")
            nib.save(nib.Nifti1Image(shifted, label.affine), row[f"{role}_mask"])
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    files = ["train.json", "train_source_masks.json"]
    options = {**lists, **SMALL, "pairs": str(tmp_path / "pairs.json"), "output_dir": str(tmp_path / "out")}
    workflow = workflow_of(bundle, files, max_epochs=1, **options)
    workflow.initialize()
    parts = {name: workflow.parser.get_parsed_content(f"train#random#{name}") for name in ("mask_errors", "swap")}
    pair = workflow.parser.get_parsed_content("train#dataset").data[0]
    whole = workflow.parser.get_parsed_content("train#transforms").transforms[:4]
    for transform in whole:
        pair = transform(pair)
    assert torch.equal(pair["masks"], pair["labels"].roll(2, dims=1)) or torch.equal(
        pair["masks"],
        pair["labels"].roll(-2, dims=1),  # the axes of the working grid may be reversed
    )
    assert torch.equal(pair["targets"], pair["labels"])
    parts["mask_errors"].no_masks = 0.0
    assert torch.equal(parts["mask_errors"](pair)["masks"], pair["masks"])
    workflow.run()
    workflow.finalize()
    assert (tmp_path / "out" / "best.pt").exists()
