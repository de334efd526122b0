"""train.json and evaluate.json in MONAI's runner: properties, a run, resuming, NaN, subjects in both splits."""

from __future__ import annotations

import csv
import json
import re

import pytest
import torch
from monai.bundle import ConfigWorkflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.common.errors import InputError
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom
from scripts.workflow.outcome import input_error
from tests.training.curves import check_plotted, seen_losses

SMALL = {
    "network_def#channels": [4, 8],
    "strides": [2, 2, 1],
    "attention_window": [4, 4, 2],
    "crop": [24, 24, 4],
    "max_size": 32,
    "window": "mr",
    "amp": None,
    "val_interval": 1,
    "learning_rate": 0.001,
}


@pytest.fixture(scope="module")
def lists(tmp_path_factory) -> dict[str, str]:
    """A training and a validation list of two phantom pairs each."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for seed in range(4):
        paths = write_phantom(folder / str(seed), cardiac_pair(seed, (32, 32, 4), (6.0, 6.0, 16.0)))
        rows.append(
            {k: paths[k] for k in ("moving", "fixed", "moving_label", "fixed_label")} | {"name": f"heart{seed}"}
        )
    for name, part in (("training", rows[:2]), ("validation", rows[2:])):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(part)
    return {"pairs": str(folder / "training.csv"), "validation_pairs": str(folder / "validation.csv")}


def workflow_of(bundle, files, kind="train", **options) -> ConfigWorkflow:
    return ConfigWorkflow(
        [str(bundle / "configs" / f) for f in files],
        workflow_type=kind,
        meta_file=str(bundle / "configs" / "metadata.json"),
        bundle_root=str(bundle),
        **options,
    )


def run(workflow: ConfigWorkflow) -> ConfigWorkflow:
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


def test_training_has_all_properties_and_runs(bundle, lists, tmp_path):
    workflow = workflow_of(bundle, ["train.json"], output_dir=str(tmp_path), max_epochs=2, **lists, **SMALL)
    workflow.initialize()
    assert workflow.check_properties() == []
    seen = seen_losses(workflow)
    workflow.run()
    workflow.finalize()
    assert workflow.parser.get_parsed_content("train#trainer").state.epoch == 2
    assert set(workflow.parser.get_parsed_content("loss_function").terms) == {
        "lncc", "diffusion", "dice", "contrast", "alignment", "contour"
    }  # fmt: skip
    assert (tmp_path / "best.pt").exists()
    assert set(seen) == {1, 2, 3, 4} and {"lncc", "contour"} <= set(seen[4])
    metrics = check_plotted(tmp_path, seen)
    evaluator = workflow.parser.get_parsed_content("validate#evaluator")
    for name in ("mean_dice", "initial_dice"):
        assert sorted(metrics[name]) == [1, 2, 3]  # every epoch, and at the end
        assert metrics[name][3] == pytest.approx(evaluator.state.metrics[name], rel=1e-5)
    logged = [EventAccumulator(str(path)).Reload() for path in tmp_path.glob("events.out*")]
    assert sum(len(events.Images(tag)) for events in logged for tag in events.Tags()["images"]) > 0

    again = run(workflow_of(bundle, ["train.json"], output_dir=str(tmp_path), max_epochs=3, **lists, **SMALL))
    assert again.parser.get_parsed_content("train#trainer").state.iteration == 6

    # The measured cohort goes through the inference pipeline with the trained weights.
    out = tmp_path / "evaluation"
    options = {k: SMALL[k] for k in ("network_def#channels", "strides", "attention_window", "max_size", "window")}
    measured = workflow_of(
        bundle, ["inference.json", "evaluate.json"], "inference", pairs=lists["validation_pairs"],
        checkpoint=str(tmp_path / "best.pt"), output_dir=str(out), progress=False, **options,
    )  # fmt: skip
    run(measured)
    assert measured.check_properties() == []
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))["metrics"]
    trained = again.parser.get_parsed_content("validate#evaluator").state.metrics
    assert summary["dice/mean/initial"]["mean"] == pytest.approx(trained["initial_dice"], abs=1e-3)

    other = {**SMALL, "network_def#channels": [4, 6]}
    refused(bundle, lists, tmp_path, "last\\.pt does not fit this network .*give another output_dir", other)
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    refused(bundle, lists, tmp_path, "last\\.pt is not a readable weights file; it may be truncated", SMALL)
    torch.save({"network": {}}, tmp_path / "last.pt")
    refused(bundle, lists, tmp_path, "last\\.pt contains no state of best, ema, engine", SMALL)


def refused(bundle, lists, out, message: str, options: dict) -> None:
    """The training ends with one sentence."""
    with pytest.raises((RuntimeError, InputError)) as error:
        run(workflow_of(bundle, ["train.json"], output_dir=str(out), max_epochs=4, **lists, **options))
    assert re.search(message, str(input_error(error.value)))


def test_a_full_disk_ends_a_training_with_one_sentence(bundle, lists, tmp_path, monkeypatch):
    run(workflow_of(bundle, ["train.json"], output_dir=str(tmp_path), max_epochs=1, **lists, **SMALL))
    good = (tmp_path / "last.pt").read_bytes()

    def full(content, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    refused(bundle, lists, tmp_path, r"Writing .*last\.pt failed \(No space left on device\)", SMALL)
    assert (tmp_path / "last.pt").read_bytes() == good


def test_training_stops_without_improvement_or_time(bundle, lists, tmp_path):
    options = {**lists, **SMALL, "max_epochs": 6}
    still = workflow_of(
        bundle, ["train.json"], output_dir=str(tmp_path / "still"), patience=2, **{**options, "learning_rate": 0.0}
    )
    run(still)  # the Dice stays at its value after the first epoch
    assert still.parser.get_parsed_content("train#trainer").state.epoch == 3

    out = tmp_path / "short"
    run(workflow_of(bundle, ["train.json"], output_dir=str(out), time_budget_s=1, **{**options, "max_epochs": 200}))
    done = torch.load(out / "last.pt", weights_only=True)["engine"]["iteration"]
    assert 0 < done < 400
    epochs = done // 2 + 2
    longer = run(workflow_of(bundle, ["train.json"], output_dir=str(out), **{**options, "max_epochs": epochs}))
    assert longer.parser.get_parsed_content("train#trainer").state.iteration == 2 * epochs


def first_value_error(error: BaseException) -> BaseException:
    while error is not None and type(error) not in (ValueError, FloatingPointError):
        error = error.__cause__ or error.__context__
    return error


def test_same_seed_same_weights(bundle, lists, tmp_path):
    states = []
    for part in "ab":
        options = {**lists, **SMALL, "validation_pairs": lists["validation_pairs"]}
        run(workflow_of(bundle, ["train.json"], output_dir=str(tmp_path / part), max_epochs=1, **options))
        states.append(torch.load(tmp_path / part / "best.pt", weights_only=True))
    torch.testing.assert_close(states[0], states[1], atol=0, rtol=0)


def test_a_subject_in_both_lists_is_refused(bundle, lists, tmp_path):
    options = {**lists, "validation_pairs": lists["pairs"]}
    with pytest.raises((RuntimeError, InputError)) as error:
        run(workflow_of(bundle, ["train.json"], output_dir=str(tmp_path), max_epochs=1, **options, **SMALL))
    assert "in both the training and the validation list" in str(input_error(error.value))


def test_nan_stops_with_the_name_and_keeps_the_checkpoint(bundle, lists, tmp_path):
    run(workflow_of(bundle, ["train.json"], output_dir=str(tmp_path), max_epochs=1, **lists, **SMALL))
    good = (tmp_path / "last.pt").read_bytes()
    workflow = workflow_of(bundle, ["train.json"], output_dir=str(tmp_path), max_epochs=2, **lists, **SMALL)
    workflow.initialize()
    workflow.parser.get_parsed_content("prepare")
    trainer = workflow.parser.get_parsed_content("train#trainer")
    prepare = trainer.prepare_batch

    def spoiled(*args, **kwargs):
        inputs, targets = prepare(*args, **kwargs)
        inputs["image"][0, 0, 3, 3, 1] = float("nan")
        return inputs, targets

    trainer.prepare_batch = spoiled
    with pytest.raises((RuntimeError, FloatingPointError)) as error:
        workflow.run()
    assert "moving.nii.gz to " in str(first_value_error(error.value))
    assert "is not a number" in str(first_value_error(error.value))
    assert (tmp_path / "last.pt").read_bytes() == good


def test_without_tensorboard_a_training_logs_one_line(bundle, lists, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("scripts.training.handlers.find_spec", lambda name: None)
    run(workflow_of(bundle, ["train.json"], output_dir=str(tmp_path), max_epochs=1, **lists, **SMALL))
    assert "TensorBoard is not installed" in capsys.readouterr().out
    assert (tmp_path / "best.pt").exists() and not list(tmp_path.glob("events*"))
