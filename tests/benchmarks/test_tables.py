"""The arithmetic of the tables."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from scripts.benchmarks.peers.ablation import ROWS, table_lines
from scripts.benchmarks.tables import averages, gain, markdown, read_metrics
from scripts.common.tables import write_csv


def pairs(**columns) -> list[dict]:
    names = [f"p{i}" for i in range(len(next(iter(columns.values()))))]
    return [{"name": n} | dict(zip(columns, values)) for n, values in zip(names, zip(*columns.values()))]


def test_means_leave_missing_numbers_out():
    rows = pairs(a=[1.0, None, 3.0], b=[None, None, None])
    assert averages(rows, {"x": "a", "y": "b", "z": "c"}) == {"x": 2.0, "x_sd": 1.0}


def test_gain_is_paired_by_name():
    ours = pairs(d=[0.8, 0.7, 0.9])
    theirs = pairs(d=[0.7, 0.5, 0.9])[::-1]
    found = gain(ours, theirs, "d")
    more = np.array([0.1, 0.2, 0.0])
    assert found["gain"] == pytest.approx(0.1)
    assert found["gain_sd"] == pytest.approx(more.std(ddof=1) / np.sqrt(3))


def test_gain_of_other_pairs_is_refused():
    with pytest.raises(ValueError, match="2 and 3 pairs of different names"):
        gain(pairs(d=[1.0, 2.0]), pairs(d=[1.0, 2.0, 3.0]), "d")


def test_markdown_leaves_unused_columns_out():
    text = markdown([{"m": "a", "x": 0.5, "x_sd": 0.25}, {"m": "b", "y": 2}], {"m": "", "x": "X", "y": "Y", "z": "Z"})
    assert text == "|  | X | Y |\n| --- | --- | --- |\n| a | 0.500 ± 0.250 |  |\n| b |  | 2.000 |\n"


def test_csv_has_every_column_and_reads_back(tmp_path):
    rows = [{"name": "a", "x": 0.5}, {"name": "b", "y": 2.0}]
    write_csv(tmp_path / "new" / "t.csv", rows)
    with (tmp_path / "new" / "t.csv").open(encoding="utf-8", newline="") as stream:
        assert next(csv.reader(stream)) == ["name", "x", "y"]
    back = read_metrics(tmp_path / "new" / "t.csv")
    assert back[0]["name"] == "a" and back[0]["x"] == 0.5 and np.isnan(back[0]["y"]) and back[1]["y"] == 2.0
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["t.csv"]


def test_ablation_compares_with_the_paper_and_with_the_full_losses():
    by_variant = {(row.variant, row.masks): row for row in ROWS}
    keys = ("dice/mean/initial", "dice/mean/final", "field/sdlogj")
    full = pairs(**dict(zip(keys, ([0.5, 0.6], [0.8, 0.9], [0.04, 0.06]))))
    without = pairs(**dict(zip(keys, ([0.5, 0.6], [0.7, 0.7], [0.04, 0.04]))))
    lines = table_lines({by_variant["no_contour", "cardiac"]: without, by_variant["full", "cardiac"]: full})
    before, prototype, both = lines
    assert before["dice"] == pytest.approx(0.55) and before["paper_dice"] == 0.561
    assert prototype["dice"] == pytest.approx(0.7) and prototype["gain"] == pytest.approx(-0.15)
    assert (prototype["paper_dice"], prototype["paper_sdlogj"]) == (0.835, 0.045)
    assert both["sdlogj"] == pytest.approx(0.05) and "gain" not in both and both["paper_dice"] == 0.846
