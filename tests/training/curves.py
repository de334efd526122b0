"""Compares what a training computes with what the command ``plot`` shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from scripts.verbs.plot import plot, read_curves

Seen = dict[int, dict[str, float]]


def seen_losses(workflow: ConfigWorkflow) -> Seen:
    """The loss and its terms by iteration, filled while the training runs."""
    part, seen = workflow.parser.get_parsed_content, {}

    def note(engine: Engine) -> None:
        output = engine.state.output
        output = output[0] if isinstance(output, list) else output
        terms = getattr(part("loss_function"), "terms", {})
        seen[engine.state.iteration] = {"loss": output["loss"].item(), **terms}

    part("train#trainer").add_event_handler(Events.ITERATION_COMPLETED, note)
    return seen


def check_plotted(folder: Path, seen: Seen) -> dict[str, dict[int, float]]:
    """Compares the curves of a run with the recorded values, draws them, and returns those of the metrics."""
    loss, metrics = read_curves(folder)
    assert set(loss) == set(seen[max(seen)])
    for name, curve in loss.items():
        assert curve == pytest.approx({step: terms[name] for step, terms in seen.items()}, rel=1e-5)
    assert Path(plot(folder)["picture"]).stat().st_size > 10_000
    return metrics
