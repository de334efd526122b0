"""The shipped weights on real hearts that they were not trained on."""

from __future__ import annotations

import pytest
from monai.bundle import ConfigParser

from scripts.data.batches import inference_batch
from scripts.data.pair import one_pair
from scripts.data.pair_lists import acdc_pairs
from scripts.verbs.register import register
from scripts.workflow.outputs import MeasurePair


@pytest.mark.slow
@pytest.mark.parametrize("masks", [None, "cardiac"])
def test_validation_patients_improve_with_and_without_masks(bundle, real_data, tmp_path, masks):
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.update({"bundle_root": str(bundle), "progress": False, "window": "mr", "masks": masks})
    load, network, inferer = (parser.get_parsed_content(k) for k in ("preprocessing", "network", "inferer"))
    network.eval()
    for pair in acdc_pairs(str(real_data), "validation", str(tmp_path))[4:6]:
        batch = one_pair([load(pair)])
        assert batch["masks"].any() == (masks is not None)
        image, *_ = inference_batch(batch, "cpu")
        metrics = MeasurePair()({**batch, "pred": inferer(image, network)})["metrics"]
        assert metrics["dice"]["final"]["mean"] > metrics["dice"]["initial"]["mean"] + 0.1
        assert metrics["field"]["folds_percent"] < 0.1
        assert metrics["field"]["sdlogj"] < (0.06 if masks is None else 0.08)


@pytest.mark.slow
def test_the_preset_of_abdomens_registers_subjects(real_data, tmp_path):
    folder = real_data / "abdomen_ct"
    paths = {
        role: {"image": str(folder / f"img{number}.nii.gz"), "label": str(folder / f"label{number}.nii.gz")}
        for role, number in (("moving", "0036"), ("fixed", "0022"))
    }
    record = register(
        paths["moving"]["image"], paths["fixed"]["image"], str(tmp_path), method="network", preset="abdomen_ct",
        moving_label=paths["moving"]["label"], fixed_label=paths["fixed"]["label"], overview=False, progress=False,
    )  # fmt: skip
    dice = {stage: values["mean"] for stage, values in record["metrics"]["dice"].items()}
    assert dice["initial"] < 0.1 < 0.25 < dice["aligned"] < 0.4
    assert dice["final"] > 0.55
    assert record["metrics"]["field"]["folds_percent"] < 0.3
