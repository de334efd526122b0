"""A cohort: the same results as single registrations, resumed, failures isolated, nothing computed twice."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts import __main__ as cli
from scripts import register
from scripts.common.errors import InputError
from scripts.workflow.outcome import ExitCode
from tests.workflow.cohort.conftest import QUICK, results, write_list
from tests.workflow.cohort.stand_in import Bands

NAMES = ["heart0", "heart1", "heart2"]


def test_every_pair_equals_a_single_registration(phantoms, undisturbed, tmp_path):
    single = {k: v for k, v in phantoms[1].items() if k != "name"}
    record = register(single.pop("moving"), single.pop("fixed"), str(tmp_path / "heart1"), **single, **QUICK)
    expected = {k: v for k, v in results(undisturbed, ["heart1"]).items() if not k.endswith("case.json")}
    assert record["pairs"] and "heart1/ddf.nii.gz" in expected
    assert results(tmp_path, ["heart1"]) == expected


def test_the_table(undisturbed):
    summary = json.loads((undisturbed / "summary.json").read_text(encoding="utf-8"))
    assert [summary[k] for k in ("registered", "nothing_found", "failed")] == [3, 0, 0]
    records = [json.loads((undisturbed / n / "correspondence.json").read_text(encoding="utf-8")) for n in NAMES]
    for stage in ("initial", "final"):
        dice = [r["metrics"]["dice"][stage]["mean"] for r in records]
        entry = summary["metrics"][f"dice/mean/{stage}"]
        np.testing.assert_allclose([entry["mean"], entry["sd"], entry["n"]], [np.mean(dice), np.std(dice), 3])
    with (undisturbed / "summary.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [r["name"] for r in rows] == [*NAMES, "mean", "sd"]
    assert float(rows[1]["tre_mm/mean/final"]) == records[1]["metrics"]["tre_mm"]["final"]["mean"]
    assert float(rows[3]["dice/mean/final"]) == summary["metrics"]["dice/mean/final"]["mean"]
    assert (undisturbed / "heart0" / "case.log").stat().st_size > 0


def run_main(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["scripts", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_failures_do_not_stop_the_rest_and_are_tried_again(phantoms, undisturbed, tmp_path, monkeypatch, capsys):
    """Through the command line; once the missing file is there, only its pair is registered."""
    out = tmp_path / "out with 'quotes'"
    shutil.copytree(undisturbed, out)
    shutil.rmtree(out / "heart0")
    late = tmp_path / "späť.nii.gz"
    rows = [{**phantoms[0], "moving": str(late)}, *phantoms[1:]]
    words = ["register", "--pairs", write_list(tmp_path / "list.json", rows), "--output_dir", str(out)]
    words += [f"--{k}={json.dumps(v) if isinstance(v, dict) else v}" for k, v in QUICK.items()]
    assert run_main(monkeypatch, *words) == ExitCode.SOME_FAILED == 4
    assert f"heart0: failed: {late} does not exist; give the path" in capsys.readouterr().err
    assert "does not exist" in (out / "heart0" / "case.log").read_text(encoding="utf-8")
    assert {p.name for p in (out / "heart0").iterdir()} == {"case.json", "case.log"}
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert (summary["registered"], summary["failed"], summary["done_before"]) == (2, 1, 2)
    assert summary["pairs"][0]["error"].startswith(str(late))
    shutil.copy(phantoms[0]["moving"], late)
    assert run_main(monkeypatch, *words) == 0
    again = results(out, NAMES)
    for key, value in results(undisturbed, NAMES).items():
        assert key == "heart0/case.json" or key == "heart0/correspondence.json" or again[key] == value
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert (summary["registered"], summary["failed"], summary["done_before"]) == (3, 0, 2)


def test_other_options_register_again_and_replace_everything(phantoms, undisturbed, tmp_path):
    shutil.copytree(undisturbed / "heart0", tmp_path / "heart0")
    listed = write_list(tmp_path / "list.json", phantoms[:1])
    assert register(pairs=listed, output_dir=str(tmp_path), **QUICK)["done_before"] == 1
    assert (tmp_path / "heart0" / "ddf.nii.gz").exists()
    assert register(pairs=listed, output_dir=str(tmp_path), **{**QUICK, "dense": False})["done_before"] == 0
    assert not (tmp_path / "heart0" / "ddf.nii.gz").exists()
    assert (tmp_path / "heart0" / "moving_rois.nii.gz").exists()


def test_an_image_is_segmented_once(phantoms, tmp_path):
    """Three images of one grid in all six ordered pairs: six working images, three different ones."""
    images = [phantoms[0]["fixed"], phantoms[0]["moving"], phantoms[1]["moving"]]
    rows = [{"moving": a, "fixed": b} for a in images for b in images if a != b]
    options = {**QUICK, "pairs": write_list(tmp_path / "list.json", rows)}
    with_store = register(output_dir=str(tmp_path / "a"), **options)
    without = register(output_dir=str(tmp_path / "b"), cache_gb=0, **options)
    assert with_store["slices"] == {"computed": 3, "reused": 9}
    assert without["slices"] == {"computed": 12, "reused": 0}
    names = [row["name"] for row in with_store["pairs"]]
    assert results(tmp_path / "a", names) == results(tmp_path / "b", names)


def test_a_full_disk_keeps_the_old_result_and_stops(phantoms, undisturbed, tmp_path, monkeypatch):
    shutil.copytree(undisturbed, tmp_path / "out")
    before = results(tmp_path / "out", NAMES)
    real, written = nib.save, []

    def full(image, path):
        written.append(str(path))
        if "moved.nii.gz" not in str(path):
            return real(image, path)
        with open(path, "wb") as stream:
            stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    options = {**QUICK, "pairs": write_list(tmp_path / "list.json", phantoms), "smoothness": 3.0}
    with pytest.raises(InputError, match=r"out is full; complete results are unchanged\. Make room and run"):
        register(output_dir=str(tmp_path / "out"), **options)
    assert any("moved.nii.gz" in path for path in written)
    assert results(tmp_path / "out", NAMES) == before
    monkeypatch.setattr(nib, "save", real)
    assert register(output_dir=str(tmp_path / "out"), **options)["registered"] == 3
    assert not (tmp_path / "out" / ".running").exists()


def test_nothing_of_the_user_is_replaced(phantoms, tmp_path):
    (tmp_path / "heart1").mkdir()
    (tmp_path / "heart1" / "scan.nii.gz").write_text("precious")
    with pytest.raises(InputError, match="heart1 exists and is not a result of a cohort"):
        register(pairs=write_list(tmp_path / "list.json", phantoms), output_dir=str(tmp_path), **QUICK)
    assert (tmp_path / "heart1" / "scan.nii.gz").read_text() == "precious"
    assert not (tmp_path / "heart0").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("no room\nfor this"), "Out of memory; use a smaller --max_size"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "Out of memory; use a smaller --max_size"),
        (ValueError("this is wrong\nvery"), "ValueError: this is wrong"),
    ],
)
def test_a_failure_inside_the_engine_does_not_spoil_the_next_pair(
    phantoms, undisturbed, tmp_path, monkeypatch, error, said
):
    """Ignite's engine silently does nothing when it is run again after an exception."""
    real, calls = Bands.__call__, []

    def once(self, sam, slices, window=None):
        calls.append(len(slices))
        if len(calls) == 1:
            raise RuntimeError("applying transform <Bands object at 0x7f00>") from error
        return real(self, sam, slices, window)

    monkeypatch.setattr(Bands, "__call__", once)
    summary = register(pairs=write_list(tmp_path / "list.json", phantoms), output_dir=str(tmp_path), **QUICK)
    assert [row["status"] for row in summary["pairs"]] == ["failed", "registered", "registered"]
    assert summary["pairs"][0]["error"].startswith(said) and "0x" not in summary["pairs"][0]["error"]
    assert "Traceback" in (tmp_path / "heart0" / "case.log").read_text(encoding="utf-8")
    assert results(tmp_path, NAMES[1:]) == results(undisturbed, NAMES[1:])


def test_a_failure_does_not_replace_a_good_result(phantoms, undisturbed, tmp_path):
    """The images of a finished cohort become unreachable, and come back."""
    out, share = tmp_path / "out", tmp_path / "share"
    share.mkdir()
    rows = []
    for row in phantoms[:1]:
        copies = {k: str(share / f"{k}-{Path(v).name}") for k, v in row.items() if k != "name"}
        for key, copy in copies.items():
            shutil.copy(row[key], copy)
        rows.append({"name": row["name"], **copies})
    options = {"pairs": write_list(tmp_path / "list.json", rows), "output_dir": str(out), **QUICK}
    register(**options)
    before = results(out, NAMES[:1])
    share.rename(tmp_path / "unmounted")
    summary = register(**options)
    assert summary["failed"] == 1 and "(the earlier result is kept)" in summary["pairs"][0]["error"]
    assert {k: v for k, v in results(out, NAMES[:1]).items() if "failure" not in k} == before
    (tmp_path / "unmounted").rename(share)
    summary = register(**options)
    assert (summary["registered"], summary["failed"], summary["done_before"]) == (1, 0, 1)
    assert results(out, NAMES[:1]) == before


def test_warnings_of_pairs_are_in_the_summary(phantoms, tmp_path):
    options = {**QUICK, "everything": {**QUICK["everything"], "bands": 1}}
    summary = register(pairs=write_list(tmp_path / "list.json", phantoms[:1]), output_dir=str(tmp_path), **options)
    assert any("No region was found" in sentence for sentence in summary["pairs"][0]["warnings"])
    with (tmp_path / "summary.csv").open(encoding="utf-8", newline="") as stream:
        assert "No region was found" in next(csv.DictReader(stream))["warnings"]


def test_pairs_without_regions_have_their_own_exit_code(phantoms, tmp_path, monkeypatch):
    options = {**QUICK, "everything": {**QUICK["everything"], "bands": 1}, "discrete": False, "image_weight": 0}
    words = ["register", "--pairs", write_list(tmp_path / "list.json", phantoms[:1]), "--output_dir", str(tmp_path)]
    words += [f"--{k}={json.dumps(v) if isinstance(v, dict) else v}" for k, v in options.items()]
    for done in (0, 1):  # no regions is a result, too, and is not computed again
        assert run_main(monkeypatch, *words) == 3
        summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
        assert (summary["nothing_found"], summary["done_before"]) == (1, done)
    metrics = summary["metrics"]
    assert metrics["dice/mean/final"] == metrics["dice/mean/initial"]
