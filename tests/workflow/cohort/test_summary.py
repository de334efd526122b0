"""The summary of a folder equals the summary of its run, in CSV and Parquet, and no cell is a formula."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest

from scripts.common.errors import InputError
from scripts.verbs.summarise import summarise
from scripts.workflow.cohort import case, summary
from scripts.workflow.cohort.run import finish_cohort


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_folder_is_summarised_like_its_run(undisturbed, tmp_path, monkeypatch, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr("scripts.verbs.summarise.CHUNK", 2)  # three pairs in two chunks
    shutil.copytree(undisturbed, tmp_path / "out")
    failed = tmp_path / "out" / "sub-01" / "ses-1"
    failed.mkdir(parents=True)
    record = {"name": "=cmd|x", "status": case.FAILED, "error": "gone", "warnings": ["one", "two"], "seconds": 1.0,
              "doubts": ["three", "four"], "trusted": False}  # fmt: skip
    (failed / case.RECORD).write_text(json.dumps(record), encoding="utf-8")
    told = summarise(str(tmp_path / "out"), str(tmp_path / f"pairs.{ending}"))
    expected = json.loads((undisturbed / "summary.json").read_text(encoding="utf-8"))
    assert (told["registered"], told["failed"], told["pairs"], told["doubted"], told["untrusted"]) == (3, 1, 4, 1, 1)
    for key, value in expected["metrics"].items():
        assert told["metrics"][key] == pytest.approx(value), key
    read = pd.read_csv if ending == "csv" else pd.read_parquet
    table = read(tmp_path / f"pairs.{ending}")
    if ending == "csv":  # it ends as the table of the run does
        ends, own = table.iloc[-2:], pd.read_csv(undisturbed / "summary.csv").iloc[-2:]
        assert list(ends["name"]) == list(own["name"]) == ["mean", "sd"]
        for key in expected["metrics"]:
            assert ends[key].tolist() == pytest.approx(own[key].tolist()), key
        table = table.iloc[:-2]
    assert set(table["status"]) == {case.REGISTERED, case.FAILED}
    assert table["dice/mean/final"].mean() == pytest.approx(expected["metrics"]["dice/mean/final"]["mean"])
    bad = table[table["status"] == case.FAILED].iloc[0]
    assert (bad["warnings"], bad["doubts"], str(bad["trusted"])) == ("one | two", "three | four", "False")
    assert bad["name"] == ("'=cmd|x" if ending == "csv" else "=cmd|x")


def test_doubts_are_counted_and_end_a_cohort_with_a_code_of_their_own(tmp_path):
    rows = [{"name": "a", "status": case.REGISTERED, "trusted": True},
            {"name": "b", "status": case.REGISTERED, "trusted": False, "doubts": ["It may be wrong."]}]  # fmt: skip
    found = summary.summarise(rows, {"seconds": 1.0})
    assert (found["doubted"], found["untrusted"]) == (1, 1)
    summary.write_summary(tmp_path, found)
    assert "1 with doubts" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "It may be wrong." in (tmp_path / "summary.csv").read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        finish_cohort(found)
    assert end.value.code == 5
    finish_cohort(summary.summarise(rows[:1], {}))


def test_what_cannot_be_summarised(tmp_path):
    with pytest.raises(InputError, match="contains no results of a cohort"):
        summarise(str(tmp_path))
    with pytest.raises(InputError, match=r"must be a \.csv or \.parquet file"):
        summarise(str(tmp_path), str(tmp_path / "table.xlsx"))
