"""The command ``plot``: the curves drawn are the values that a training logged."""

from __future__ import annotations

import json
import sys

import matplotlib.image
import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from scripts.common.errors import InputError
from scripts.verbs.plot import draw, plot, read_curves
from tests.test_commands import run_main


def write(folder, curves, stamp):
    """Curves {name: {step: value}} as one event file, later ones with larger stamps."""
    with SummaryWriter(str(folder), filename_suffix=f".{stamp}") as writer:
        for name, curve in curves.items():
            for step, value in curve.items():
                writer.add_scalar(name, value, step)


def test_every_value_is_drawn(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    loss = {"loss": {k: float(rng.random()) for k in range(1, 2001)}, "dice": {k: 1 / k for k in range(1, 2001)}}
    write(tmp_path, loss, 1)
    write(tmp_path, {"mean_dice": {1: 0.5, 2: 0.625}}, 2)
    found = read_curves(tmp_path)
    lines = {
        line.get_label(): dict(zip(line.get_xdata(), line.get_ydata()))
        for axes in draw(*found, "run").axes
        for line in axes.lines
    }
    assert set(lines) == {"loss", "dice", "mean_dice"}
    for name, curve in (loss | {"mean_dice": {1: 0.5, 2: 0.625}}).items():
        assert lines[name] == pytest.approx(curve, rel=1e-6)
    assert run_main(monkeypatch, "plot", str(tmp_path)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["metrics"] == {"mean_dice": [2, 0.625]}
    picture = matplotlib.image.imread(result["picture"])
    assert picture.shape[1] > 1000 and picture[..., :3].std() > 0.05


def test_a_resumed_training_replaces_what_it_repeats(tmp_path):
    write(tmp_path, {"loss": {1: 4.0, 2: 3.0, 3: 9.0}}, 1)
    write(tmp_path, {"loss": {3: 2.0, 4: 1.0}}, 2)
    loss, metrics = read_curves(tmp_path)
    assert loss == {"loss": {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}} and metrics == {}
    assert len(draw(loss, metrics, "run").axes) == 1  # no empty panel


def test_what_cannot_be_drawn(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"contains no curves .*give the --output_dir of a training"):
        plot(tmp_path)
    write(tmp_path, {}, 1)
    with pytest.raises(InputError, match="contain no values yet"):
        plot(tmp_path)
    write(tmp_path, {"loss": {1: 1.0}}, 2)
    with pytest.raises(InputError, match=r"curves\.txt is not the name of a PNG"):
        plot(tmp_path, tmp_path / "curves.txt")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("scripts.verbs.plot.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        plot(tmp_path)
    assert not (tmp_path / "curves.png").exists()
