"""The commands that measure SAM, on little data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from scripts.benchmarks.common import Registrar
from scripts.benchmarks.hearts import roi_table
from scripts.benchmarks.hearts.roi_table import Segmented, Setting, settings
from scripts.benchmarks.models import sam, sam_pictures, sam_size, sam_slices
from scripts.benchmarks.models.sam_models import load_models
from scripts.benchmarks.models.sam_pictures import Shown, draw
from scripts.common.errors import InputError
from scripts.common.weights import export_weights
from scripts.sam.build import MODELS
from scripts.sam.compact import compact_sam

SHIPPED = str(MODELS / "compact_sam.pt")


@pytest.fixture
def few(monkeypatch):
    """Two small phantoms, so that the commands take seconds."""
    made = list(sam_slices.phantom_slices(2))
    monkeypatch.setattr(sam, "phantom_slices", lambda count: iter(made))
    return made


def rows_of(text: str) -> dict[str, list[str]]:
    """The cells of each table row by its first cell."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in ([c.strip() for c in line.strip("|").split("|")] for line in lines)}


def test_two_sets_of_weights_are_compared_side_by_side(few, tmp_path, capsys):
    """Untrained weights in the second column find nothing where the shipped ones do."""
    torch.manual_seed(0)
    export_weights(compact_sam(), tmp_path / "untrained.pt")
    sam.main(weights=f"{SHIPPED},{tmp_path}/untrained.pt", parts="points,rank", slices=4, points=1, searches=6)
    rows = rows_of(capsys.readouterr().out)
    assert rows["random point inside, IoU of the best of three"][1:] == ["compact_sam.pt", "untrained.pt"]
    shipped, untrained = (float(cell.split()[0]) for cell in rows["left ventricle"][1:])
    assert shipped > untrained + 0.2
    ranked = next(cells for title, cells in rows.items() if title.startswith("mean reciprocal rank"))
    assert all(0 < float(cell) <= 1 for cell in ranked)
    assert {"Pearson's r", "predicted IoU", "true IoU", "partner first"} <= set(rows)


def test_everything_and_unseen(few, capsys):
    sam.main(parts=("everything", "unseen"), slices=2, phantoms=1, points_per_side=8)
    rows = rows_of(capsys.readouterr().out)
    share = float(rows["**all structures**"][1].strip("*%"))
    assert 0 <= share <= 100
    assert {f"phantoms, {name}" for name in ("speckle", "stripes", "cells")} <= set(rows)


def test_bad_input():
    with pytest.raises(InputError, match="There is no part 'speed' to measure; choose from points, everything"):
        sam.main(parts="points,speed")
    with pytest.raises(InputError, match=r"weights gone\.pt are missing"):
        load_models("gone.pt", {})
    with pytest.raises(InputError, match="files, one or more with commas between, got ',a'"):
        load_models(",a", {})
    with pytest.raises(InputError, match="There is no option --epsilom; did you mean --epsilon"):
        load_models(SHIPPED, {"epsilom": 1})
    with pytest.raises(InputError, match="has no list of validation subjects"):
        sam.main(data_dir="nowhere", parts="points")


def test_settings_of_the_table():
    assert settings((1, 4), (0.5, 0.9), 0.8) == [
        Setting(1, 0.8), Setting(4, 0.8), Setting(None, 0.5), Setting(None, 0.8), Setting(None, 0.9),
    ]  # fmt: skip


def test_the_table_segments_once_and_equals_a_registration(heart_files, monkeypatch):
    registrar = Registrar({"window": "mr", "points_per_side": 8, **roi_table.PAPER, "linking": "auto"})
    asked = []
    real = registrar.inferer.everything.__class__.__call__

    def counted(self, sam, slices, window=None):
        asked.append(len(slices))
        return real(self, sam, slices, window)

    monkeypatch.setattr(registrar.inferer.everything.__class__, "__call__", counted)
    segmented = Segmented(registrar, heart_files)
    once = sum(asked)
    measured = {s: segmented(s) for s in (Setting(1, 0.8), Setting(None, 0.5), Setting(None, 0.8), Setting(None, 1.0))}
    assert sum(asked) == once == 12  # six slices of either image
    assert measured[Setting(1, 0.8)]["matches"] == 1
    assert measured[Setting(None, 0.5)]["matches"] >= measured[Setting(None, 0.8)]["matches"] > 1
    assert "final" not in measured[Setting(None, 1.0)]["dice"]  # no pairs: unchanged
    registrar.inferer.matcher.max_pairs, registrar.inferer.matcher.epsilon = None, 0.8
    whole = registrar("heart", heart_files).metrics
    assert measured[Setting(None, 0.8)]["dice"]["final"] == pytest.approx(whole["dice"]["final"])
    assert set(roi_table.METRICS) - set(whole) == {"centroid_rms"}
    errors = [v for k, v in whole["centroid_mm"]["final"].items() if k != "mean"]
    rms = measured[Setting(None, 0.8)]["centroid_rms"]["final"]["mean"]
    assert rms == pytest.approx((sum(e**2 for e in errors) / len(errors)) ** 0.5)
    found = segmented.sources()
    assert found["labels"]["label_dice"] > found["SAM"]["label_dice"] > whole["dice"]["initial"]["mean"]
    assert found["SAM"]["pseudo_dice"] > found["labels"]["pseudo_dice"]
    assert found["labels"]["label_tre"] < found["SAM"]["label_tre"]


def test_centroids_of_known_masks():
    moving, fixed = torch.zeros(2, 3, 12, 12, dtype=torch.uint8)
    moving[0, 2:5, 2:5], fixed[0, 4:7, 3:6] = 255, 255
    moving[1, 5:7, 5:7] = fixed[1, 5:7, 5:7] = 255
    fixed[2, 1:3, 1:3] = 255  # the moving one is empty
    errors = roi_table.centroid_errors(torch.zeros(1, 2, 12, 12), moving, fixed, (2.0, 3.0))
    assert errors == pytest.approx([5.0, 0.0])
    assert roi_table.rms([3.0, None, 4.0]) == pytest.approx(12.5**0.5)
    assert roi_table.rms([]) is None


def test_time_of_a_size(capsys):
    sam_size.main(tokens=(16,), samples=0, repeats=1)
    rows = rows_of(capsys.readouterr().out)
    assert rows["16 x 16"][0] == "64 x 64"
    assert float(rows["16 x 16"][3].split()[0]) > 0


def test_pictures(tmp_path):
    (model,) = load_models(SHIPPED, {"points_per_side": 6})
    one = next(iter(sam_slices.phantom_slices(1)))[3]
    rows = [sam_pictures.of_slice("heart", one), Shown("nothing to ask for", "other", one.picture)]
    draw(tmp_path / "rows.png", model, rows)
    with Image.open(tmp_path / "rows.png") as drawn:
        assert drawn.size[1] > drawn.size[0] / 2
        assert np.asarray(drawn.convert("L")).std() > 20
    assert (tmp_path / "rows.png").stat().st_size < 80_000
