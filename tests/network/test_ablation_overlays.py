"""The overlays of configs/ablation in MONAI's runner: what each switches off, and its measurement."""

from __future__ import annotations

import json

import pytest

from scripts.benchmarks.peers.ablation import NETWORKS, VARIANTS
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
    trained = run(workflow_of(bundle, ["train.json", *VARIANTS[variant]], **options))
    loss = trained.parser.get_parsed_content("loss_function")
    config = json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8"))
    weights = {k: v["weight"] for k, v in config["loss_terms"].items() if not str(v["weight"]).startswith("@")}
    weights["contour"] = config["contour_weight"]
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


@pytest.mark.parametrize("variant", ["correlation", "segmentation", "inverse", "isotropic", "small"])
def test_an_option_trains_and_registers(bundle, lists, tmp_path, variant):  # noqa: F811
    """Each overlay does what its name says, and its weights load in the inference with the overlays of the network."""
    options = {**lists, **{k: v for k, v in SMALL.items() if k != "strides" or variant != "isotropic"}}
    options |= {"output_dir": str(tmp_path), "max_epochs": 1, "network_def#window": [4, 4, 2]}
    if variant == "small":
        options.pop("network_def#channels")
    trained = run(workflow_of(bundle, ["train.json", "ablation/no_prototype.json", *VARIANTS[variant]], **options))
    training, loss = (trained.parser.get_parsed_content(key) for key in ("network", "loss_function"))
    net = training.network
    assert (variant in loss.terms) == (variant in ("segmentation", "inverse"))
    assert (training.head is not None) == (variant == "segmentation") and training.both_ways == (variant == "inverse")
    assert (net.levels[-1].correlation is not None) == (variant == "correlation")
    assert net.total_stride[-1] == (2 if variant == "isotropic" else 1)
    assert net.feature_channels == 4 and len(net.levels) == (4 if variant == "small" else 2)
    keys = ("network_def#channels", "max_size", "window", "strides", "attention_window")
    options = {k: options[k] for k in keys if k in options} | {
        "checkpoint": str(tmp_path / "best.pt"),
        "masks": "label",
    }
    options |= {"pairs": lists["validation_pairs"], "output_dir": str(tmp_path / "out"), "progress": False}
    files = ["inference.json", "evaluate.json", *(f for f in VARIANTS[variant] if f in NETWORKS)]
    run(workflow_of(bundle, files, "inference", **options))
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["registered"] == 2
