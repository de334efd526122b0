"""The commands that make the tables, on phantoms."""

from __future__ import annotations

import csv
import json
import os
import shlex

import fire
import pytest

from scripts.benchmarks.peers import ablation, compare, tuning
from scripts.benchmarks.tables import read_metrics
from scripts.common.errors import InputError
from tests.test_commands import commands


def lines_of(path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return {line["method"]: line for line in csv.DictReader(stream)}


SMALL = {"network_def#channels": [4, 8], "crop": [24, 24, 4], "learning_rate": 0.001, "amp": "float32"}


@pytest.mark.slow
def test_ablation_trains_measures_and_resumes(phantom_overlay, tmp_path, monkeypatch, capsys):
    """One variant from scratch to the table; a second call runs nothing; a later change of the weights is noticed."""
    out = tmp_path / "a b"
    arguments = {"data_dir": ".", "output_dir": str(out), "epochs": 1, "dataset": phantom_overlay, **SMALL}
    ablation.main(variants="no_contour", **arguments)
    said = capsys.readouterr().out
    assert "training no_contour, 0 of 1 epochs so far" in said and "| prototype loss | 0." in said
    weights = json.loads((out / "no_contour" / "training.json").read_text(encoding="utf-8"))
    assert weights["max_epochs"] == 1 and weights["config_file"][-1].endswith("no_contour.json")
    table = lines_of(out / "ablation.csv")
    assert set(table) == {"before", "prototype loss"}
    assert float(table["prototype loss"]["paper_dice"]) == 0.835

    monkeypatch.setattr("scripts.benchmarks.workflows.subprocess.run", lambda *a, **k: pytest.fail("ran again"))
    ablation.main(variants="no_contour", **arguments)
    assert lines_of(out / "ablation.csv") == table
    with pytest.raises(InputError, match="other settings"):
        ablation.main(variants="no_contour", **{**arguments, "learning_rate": 0.01})
    best = out / "no_contour" / "best.pt"
    os.utime(best, (0, 0))  # written before the last epoch ended, as if the run had been killed
    assert not ablation.complete(out / "no_contour", 1)


def test_ablation_refuses_unknown_variants(phantom_overlay, tmp_path):
    arguments = {"data_dir": ".", "output_dir": str(tmp_path / "out"), "epochs": 1, "dataset": phantom_overlay}
    with pytest.raises(InputError, match="Unknown variant 'no_lncc'; choose one of full"):
        ablation.main(variants="no_lncc", **arguments)
    with pytest.raises(InputError, match="There is no option --learning_rat; did you mean --learning_rate"):
        ablation.main(variants="full", **arguments, learning_rat=1)
    assert not list((tmp_path / "out").glob("*/*.pt"))


def test_no_time_left_trains_nothing(phantom_overlay, tmp_path, capsys):
    ablation.main(".", str(tmp_path), epochs=1, hours=0, variants="full", dataset=phantom_overlay)
    assert "both: 0 of 1 epochs, not in the table yet" in capsys.readouterr().out


def test_compare_measures_once(bundle, phantom_overlay, tmp_path, monkeypatch):
    """The README's command on other pairs, with some of the rows."""
    rows = [compare.FIXED_MASKS, "demons", "network, no masks"]
    arguments = {"data_dir": ".", "output_dir": str(tmp_path), "dataset": phantom_overlay}
    (line,) = [line for line in commands(bundle) if "scripts.benchmarks.peers.compare" in line]
    words = [arguments["data_dir"] if word == "DATA" else word for word in shlex.split(line)[3:]]
    words += ["--output_dir", str(tmp_path), "--dataset", phantom_overlay, "--rows", str(rows)]
    fire.Fire(compare.main, command=words)
    table = lines_of(tmp_path / "compare.csv")
    assert list(table) == ["before", *rows]
    for name in ("demons", "network, no masks"):
        assert float(table[name]["dice"]) > float(table["before"]["dice"])
    # The same pairs, measured with and without MONAI's workflow.
    first = [read_metrics(tmp_path / folder / "metrics.csv") for folder in ("demons", "network_no_masks")]
    for a, b in zip(*first):
        assert a["name"] == b["name"] and a["dice/mean/initial"] == pytest.approx(b["dice/mean/initial"])
    monkeypatch.setattr("scripts.benchmarks.workflows.subprocess.run", lambda *a, **k: pytest.fail("ran again"))
    monkeypatch.setattr(compare, "measure_tool", lambda *a: pytest.fail("measured again"))
    compare.main(rows=rows, **arguments)
    assert lines_of(tmp_path / "compare.csv") == table
    monkeypatch.setitem(compare.TOOLS, "demons", compare.TOOLS["diffeomorphic_demons"])
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        compare.main(rows="demons", **arguments)
    with pytest.raises(InputError, match="Unknown method 'ants'; choose one of"):
        compare.main(rows="ants", **arguments)


def test_grid_is_every_combination():
    assert tuning.combinations("demons", {"sigma_mm": [1.0, 2.0], "iterations": 5}) == [
        {"sigma_mm": 1.0, "iterations": 5},
        {"sigma_mm": 2.0, "iterations": 5},
    ]
    with pytest.raises(InputError, match="has no parameter 'sigma'; it has diffeomorphic, sigma_mm"):
        tuning.combinations("demons", {"sigma": 1})
    with pytest.raises(InputError, match="Unknown tool 'flow'; choose one of demons"):
        tuning.combinations("flow", {})
