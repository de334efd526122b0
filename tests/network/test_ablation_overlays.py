"""The overlays of configs/ablation by MONAI's runner: what each switches off, and its measurement."""

from __future__ import annotations

import json

import pytest

from scripts.benchmarks.peers.ablation import TRAINED
from scripts.network.model import CrossFusionNet
from scripts.network.voxelmorph import VoxelMorphNet
from tests.training.network.test_training_config import SMALL, lists, run, workflow_of  # noqa: F401 a fixture

VOXELMORPH = {
    **{k: v for k, v in SMALL.items() if not k.startswith("network_def")},
    "network_def#channels": [4, 8],
    "network_def#final_channels": [4],
}


@pytest.mark.parametrize(
    ("variant", "off"),
    [
        ("no_prototype", {"contrast", "alignment"}),
        ("no_contour", {"contour"}),
        ("no_prototype_no_contour", {"contrast", "alignment", "contour"}),
        ("voxelmorph", {"contrast", "alignment", "dice", "contour"}),
        ("voxelmorph_masks", {"contrast", "alignment", "contour"}),
    ],
)
def test_a_variant_trains_with_its_losses_and_network(bundle, lists, tmp_path, variant, off):  # noqa: F811
    baseline = variant.startswith("voxelmorph")
    options = {**lists, **(VOXELMORPH if baseline else SMALL), "output_dir": str(tmp_path), "max_epochs": 1}
    trained = run(workflow_of(bundle, ["train.json", *TRAINED[variant]], **options))
    loss = trained.parser.get_parsed_content("loss_function")
    config = json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8"))
    weights = {k: v["weight"] for k, v in config["loss_terms"].items()} | {"contour": config["contour_weight"]}
    assert {k: v.weight for k, v in loss.active.items()} == {k: v for k, v in weights.items() if k not in off}
    assert set(loss.terms) == set(loss.active) and loss.terms["lncc"] > 0
    network = trained.parser.get_parsed_content("network").network
    assert trained.check_properties() == []
    assert isinstance(network, VoxelMorphNet if baseline else CrossFusionNet)
    assert (tmp_path / "best.pt").exists()
    if variant != "voxelmorph":
        return
    keys = ("network_def#channels", "network_def#final_channels", "max_size", "window")
    options = {k: VOXELMORPH[k] for k in keys} | {"checkpoint": str(tmp_path / "best.pt"), "masks": "label"}
    options |= {"pairs": lists["validation_pairs"], "output_dir": str(tmp_path / "out"), "progress": False}
    files = ["inference.json", "evaluate.json", "ablation/voxelmorph.json"]
    run(workflow_of(bundle, files, "inference", **options))
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["registered"] == 2
