"""The benchmark of long lists, on short ones."""

from __future__ import annotations

import json

from scripts.benchmarks.speed import lists


def test_short_lists_are_planned_and_evaluated(capsys):
    lists.main(pairs=7)
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (numbers["pairs"], numbers["missing"]) == (7, 6)
    assert numbers["plan_peak_mb"] >= numbers["libraries_mb"] > 0


def test_all_ordered_pairs_of_enough_images(tmp_path):
    rows = list(lists.image_pairs(tmp_path, 7))
    assert len(set(rows)) == 7 and all(a != b for a, b in rows)
    assert {name for row in rows for name in row} <= {path.name for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 4
