"""Tables that a spreadsheet shows but does not evaluate."""

from __future__ import annotations

import csv

import pytest

from scripts.common.tables import plain_cell, write_csv


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_formulas_become_text(tmp_path, text):
    write_csv(tmp_path / "t.csv", [{"name": text, text: 1}])
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as stream:
        header, row = csv.reader(stream)
    shown = "'" + text.replace("\r", " ")
    assert header == ["name", shown] and row == [shown, "1"]


def test_numbers_and_plain_text_stay(tmp_path):
    values = ["-1.5", -2, 3e-7, None, "a=b", "-inf", 'ü, "x"']
    assert [plain_cell(v) for v in values] == values
    write_csv(tmp_path / "t.csv", [{"a": 1}, {"b": -0.5, "a": None}])
    assert (tmp_path / "t.csv").read_text(encoding="utf-8") == "a,b\n1,\n,-0.5\n"


def test_a_name_that_is_not_unicode_does_not_stop_the_table(tmp_path):
    write_csv(tmp_path / "t.csv", [{"path": "caf\udce9.nii"}])
    assert (tmp_path / "t.csv").read_bytes() == b"path\ncaf\\udce9.nii\n"
