"""``--tracking``: MLflow and TensorBoard receive the losses of a training and the metrics of an evaluation."""

from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.network.test_training_config import SMALL, lists, run, workflow_of

__all__ = ["lists"]  # the fixture
EVALUATE = ["inference.json", "evaluate.json"]


def logged(uri: str) -> dict[str, float]:
    """The last value of every metric in an MLflow database."""
    import mlflow

    runs = mlflow.MlflowClient(uri).search_runs(
        [e.experiment_id for e in mlflow.MlflowClient(uri).search_experiments()]
    )
    return {key: value for one in runs for key, value in one.data.metrics.items()}


def evaluated(bundle, lists, out, tracking: str) -> dict[str, float]:
    options = {
        k: v for k, v in SMALL.items() if k in ("network_def#channels", "strides", "attention_window", "max_size")
    }
    workflow = workflow_of(
        bundle, EVALUATE, "inference", pairs=lists["validation_pairs"], checkpoint=None, masks="label", window="mr",
        output_dir=str(out), progress=False, tracking=tracking, **options,
    )  # fmt: skip
    return run(workflow).parser.get_parsed_content("evaluator").state.metrics


def test_tensorboard_has_the_metrics_of_an_evaluation(bundle, lists, tmp_path):
    metrics = evaluated(bundle, lists, tmp_path, str(bundle / "configs" / "tracking" / "tensorboard.json"))
    events = EventAccumulator(str(next(tmp_path.glob("events.out*")))).Reload()
    assert "dice/mean/final" in metrics
    assert events.Scalars("dice/mean/final")[-1].value == pytest.approx(metrics["dice/mean/final"])


@pytest.mark.slow
@pytest.mark.parametrize("tracking", ["mlflow", "configs/tracking/mlflow.json"])
def test_mlflow_has_the_metrics_of_an_evaluation(bundle, lists, tmp_path, tracking):
    pytest.importorskip("mlflow")
    path = tracking if tracking == "mlflow" else str(bundle / tracking)
    metrics = evaluated(bundle, lists, tmp_path, path)
    seen = logged(f"sqlite:///{tmp_path / 'mlruns.db'}")
    assert seen["dice/mean/final"] == pytest.approx(metrics["dice/mean/final"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tracking", "names"),
    [("mlflow", {"train_loss"}), ("configs/tracking/mlflow.json", {"loss", "lncc", "dice"})],
    ids=["mlflow", "mlflow.json"],
)
def test_mlflow_has_the_losses_of_a_training(bundle, lists, tmp_path, tracking, names):
    pytest.importorskip("mlflow")
    path = tracking if tracking == "mlflow" else str(bundle / tracking)
    options = {**lists, **SMALL, "output_dir": str(tmp_path), "max_epochs": 1, "tracking": path}
    workflow = run(workflow_of(bundle, ["train.json"], **options))
    seen = logged(f"sqlite:///{tmp_path / 'mlruns.db'}")
    assert {*names, "mean_dice", "initial_dice"} <= set(seen)
    state = workflow.parser.get_parsed_content("validate#evaluator").state
    assert seen["mean_dice"] == pytest.approx(state.metrics["mean_dice"])
