"""The network as an inferer, the best weights, the table of a cohort."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from scripts.common.errors import InputError
from scripts.data.batches import inference_batch, pair_batch, training_batch
from scripts.metrics.pair import moved_dice
from scripts.network.model import CrossFusionNet
from scripts.network.refine import RefineSettings
from scripts.network.registration import NetworkRegistration
from scripts.training.handlers import KeepBest
from scripts.training.resume import Resume
from scripts.workflow.cohort.table import CohortTable


def small_net(dims=3, structures=2) -> CrossFusionNet:
    torch.manual_seed(0)
    return CrossFusionNet(dims, structures, channels=(4, 8)).eval()


def pair_with_masks() -> MetaTensor:
    image = torch.rand(1, 4, 16, 12, 5)
    image[:, 2:] = 0
    image[0, 2, 2:6, 3:7], image[0, 3, 4:8, 3:7] = 1, 1
    image[0, 2, 10:12, 3:7] = 2
    return MetaTensor(image, affine=torch.diag(torch.tensor([2.0, 2.0, 8.0, 1.0])))


def test_structures_become_paired_regions():
    result = NetworkRegistration(RefineSettings(), progress=False)(pair_with_masks(), small_net())
    assert result.ddf.shape == (1, 3, 16, 12, 5)
    assert len(result.matches) == 1  # structure 2 is missing in the fixed image
    torch.testing.assert_close(result.moving.centroids[0], torch.tensor([3.5, 4.5, 2.0]))
    torch.testing.assert_close(result.fixed.centroids[0], torch.tensor([5.5, 4.5, 2.0]))
    assert int((result.fixed_masks[0] == 255).sum()) == 4 * 4 * 5
    assert 0 <= float(result.matches.similarity[0]) <= 1
    assert result.warnings == []


def test_without_masks_it_warns_and_still_registers():
    image = pair_with_masks()
    image[:, 2:] = 0
    result = NetworkRegistration(RefineSettings(), progress=False)(image, small_net())
    assert len(result.matches) == 0 and result.ddf is not None
    assert "No masks of structures were given" in result.warnings[0]


def test_a_flat_image_needs_a_flat_network():
    with pytest.raises(InputError, match="The images are 3-D and the network is 2-D"):
        NetworkRegistration(RefineSettings())(pair_with_masks(), small_net(2))


def test_instance_steps_are_recorded():
    with torch.no_grad():
        result = NetworkRegistration(RefineSettings(steps=3), progress=False)(pair_with_masks(), small_net())
    assert result.details["instance"]["steps"] == 3
    before, after = result.details["instance"]["loss"]
    assert after <= before


def test_batches():
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0]))
    batch = {
        "image": MetaTensor(torch.rand(1, 6, 4, 4, 4), affine=affine), "masks": torch.ones(2, 4, 4, 4)
    }  # fmt: skip
    image, label, _, _ = inference_batch(batch, "cpu")
    assert label is None and image.shape == (1, 4, 4, 4, 4)
    torch.testing.assert_close(image.affine.float(), affine)
    torch.testing.assert_close(image[0, 1].as_tensor(), batch["image"][0, 3:].mean(dim=0).as_tensor())
    batch = {k: torch.rand(2, 2, 4, 4) for k in ("image", "masks", "targets", "labels")}
    batch |= {"spacing": torch.ones(2, 2), "name": ["a", "b"]}
    image, labels = pair_batch(batch, "cpu")
    assert torch.equal(image, torch.cat([batch["image"], batch["masks"]], dim=1)) and labels is batch["labels"]
    inputs, _ = training_batch(batch, "cpu")
    assert set(inputs) == {"image", "masks", "targets", "spacing", "name"}


def test_dice_of_moved_labels():
    labels = torch.zeros(1, 2, 8, 8)
    labels[0, 0, 1:4], labels[0, 1, 3:6] = 1, 1
    ddf = torch.zeros(1, 2, 8, 8)
    assert moved_dice({"pred": ddf, "label": labels}, 2) == pytest.approx(1 / 3)
    ddf[:, 0] = -2
    assert moved_dice({"pred": ddf, "label": labels}, 2) == 1
    assert moved_dice({"pred": ddf, "label": labels}, 2, moved=False) == pytest.approx(1 / 3)


def test_best_weights_survive_a_resume(tmp_path):
    net, path = torch.nn.Linear(2, 1), tmp_path / "best.pt"

    def evaluated(keep, value, weight):
        with torch.no_grad():
            net.weight.fill_(weight)
        engine = Engine(lambda e, b: None)
        keep.attach(engine)
        engine.state.metrics = {"dice": value}
        keep(engine)
        return float(torch.load(path, weights_only=True)["weight"][0, 0])

    keep = KeepBest(net, str(path), "dice")
    assert evaluated(keep, 0.5, 1) == 1
    assert evaluated(keep, 0.4, 2) == 1
    again = KeepBest(net, str(path), "dice")
    again.load_state_dict(keep.state_dict())
    assert evaluated(again, 0.45, 3) == 1
    assert evaluated(again, 0.6, 4) == 4
    quiet = KeepBest(net, str(tmp_path / "other.pt"), "dice", writer=False)
    assert evaluated(quiet, 0.9, 5) == 4 and not (tmp_path / "other.pt").exists()


def test_only_one_process_writes_the_checkpoint(tmp_path):
    Resume(str(tmp_path / "last.pt"), {}, writer=False).save(Engine(lambda e, b: None))
    assert list(tmp_path.iterdir()) == []


def test_table_of_a_cohort(tmp_path):
    metrics = [
        {"dice": {"initial": {"1": a, "2": None, "mean": a}, "final": {"1": a + 0.2, "2": None, "mean": a + 0.2}},
         "tre_mm": {"initial": {"mean": 4.0, "n": 3}}, "field": {"sdlogj": 0.1}}
        for a in (0.4, 0.6)
    ]  # fmt: skip
    table = CohortTable(str(tmp_path), ["left ventricle", "wall"])
    pair = SimpleNamespace(moving=SimpleNamespace(path="a.nii"), fixed=SimpleNamespace(path="b.nii"))

    def step(engine, batch):
        return {"metrics": metrics[batch["number"]]}

    engine = Engine(step)
    table.attach(engine)
    engine.run([{"number": 0, "pair": pair, "name": "one"}, {"number": 1, "pair": pair}])
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open(encoding="utf-8")))
    assert [r["name"] for r in rows] == ["one", "a.nii to b.nii"]
    assert float(rows[1]["dice/left ventricle/final"]) == pytest.approx(0.8)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["metrics"]
    assert summary["dice/mean/initial"] == {"mean": pytest.approx(0.5), "sd": pytest.approx(0.1), "n": 2}
    assert summary["tre_mm/mean/initial"]["mean"] == 4 and "dice/wall/final" not in summary
