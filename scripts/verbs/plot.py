# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``plot``: the curves of a training as a picture."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..common.errors import InputError
from ..common.files import whole_file

EVENTS = "events.out.tfevents.*"  # what TensorBoard's writer calls its files
Curve = dict[int, float]  # value by step


def plot(run: str | Path, output: str | Path | None = None) -> dict[str, Any]:
    """Draws the loss terms and the validation metrics of a training as a PNG.

    The values are those that TensorBoard shows.

    Args:
        run: folder of the training, its --output_dir.
        output: the picture; curves.png in the folder by default.

    Returns:
        "picture": the file; "loss" and "metrics": the last step and value of each curve by name.

    Raises:
        InputError: no curves in the folder, TensorBoard is not installed, or the picture cannot be written.
    """
    loss, metrics = read_curves(run)
    output = Path(output) if output else Path(run) / "curves.png"
    if output.suffix.lower() != ".png":
        raise InputError(f"{output} is not the name of a PNG; give one that ends in .png.")
    figure = draw(loss, metrics, Path(run).name)
    with whole_file(output) as part:
        figure.savefig(part)
    last = [{name: [max(curve), curve[max(curve)]] for name, curve in curves.items()} for curves in (loss, metrics)]
    return {"picture": str(output), "loss": last[0], "metrics": last[1]}


def read_curves(run: str | Path) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """The loss and its terms by iteration, and the metrics by epoch, of a run.

    Where a training was resumed from an earlier step, the values of the later files count.

    Raises:
        InputError: see :func:`plot`.
    """
    files = sorted(Path(run).glob(EVENTS))
    if not files:
        raise InputError(f"{run} contains no curves ({EVENTS}); give the --output_dir of a training.")
    if find_spec("tensorboard") is None:
        raise InputError("Reading curves needs TensorBoard; install it with: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loss: dict[str, Curve] = {}
    metrics: dict[str, Curve] = {}
    for file in files:
        events = EventAccumulator(str(file), {"scalars": 0}).Reload()  # 0: every value, not a sample of them
        tags = events.Tags()["scalars"]
        curves = loss if "loss" in tags else metrics  # trainer and validator write a file each
        for tag in tags:
            curves.setdefault(tag, {}).update((e.step, e.value) for e in events.Scalars(tag))
    if not loss and not metrics:
        raise InputError(f"The files {EVENTS} of {run} contain no values yet; wait for the first iteration.")
    return loss, metrics


def draw(loss: dict[str, Curve], metrics: dict[str, Curve], title: str) -> Figure:
    """One panel for the loss with its terms, and one for the metrics if there are any."""
    panels = [(loss, "iteration", "loss"), (metrics, "epoch", "validation")]
    panels = [panel for panel in panels if panel[0]]
    figure = Figure(figsize=(6.4 * len(panels), 4.2), dpi=120, layout="constrained")
    figure.suptitle(title)
    for axes, (curves, step, heading) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for name, curve in curves.items():
            steps = sorted(curve)
            mark = "." if len(steps) < 30 else ""
            axes.plot(steps, [curve[s] for s in steps], mark + "-", label=name, linewidth=2 if name == "loss" else 1)
        axes.set(xlabel=step, title=heading)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure
