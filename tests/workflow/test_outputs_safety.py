"""Written results are never half-written, never in the place of an input, and say what is doubtful."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.common.errors import InputError
from scripts.common.staging import NAMES, recover
from scripts.spatial.affine import Start
from scripts.spatial.transform_files import transform_paths
from scripts.verbs.evaluate import evaluate
from scripts.workflow.correspondence_record import doubts
from scripts.workflow.guard import check_inputs, check_output_dir, hold
from scripts.workflow.outcome import ExitCode, finish
from scripts.workflow.outputs import SaveRegistration
from tests.roi.perfect import perfect_registration


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"Nothing can be written to .*file"):
        check_output_dir(tmp_path / "file")
    with pytest.raises(InputError, match="Nothing can be written"):
        check_output_dir("/proc/nowhere")


def test_a_cache_folder_that_is_a_link_is_not_followed(tmp_path):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir(), out.mkdir()
    (elsewhere / "thesis.txt").write_text("mine")
    (out / ".cache").symlink_to(elsewhere)
    check_output_dir(out)
    assert list(out.iterdir()) == [] and (elsewhere / "thesis.txt").read_text() == "mine"


def test_files_of_an_earlier_run_are_deleted(written, tmp_path, heart_files):
    """The field of an earlier run must not remain beside the result of one that found nothing; the user's files do."""
    _, data, _ = written
    SaveRegistration(str(tmp_path), inverse=True)(data)
    (tmp_path / "notes.txt").write_text("mine")
    label = torch.from_numpy(data["pair"].moving_label.array[0])
    nothing = perfect_registration(label, label * 0, [1, 3], data["pair"].moving.geometry)
    out = SaveRegistration(str(tmp_path), overview=False)({**data, "pred": nothing})
    assert {p.name for p in tmp_path.iterdir()} == {*out["files"], "notes.txt"}
    again = SaveRegistration(str(tmp_path), overview=False)(data)
    assert {p.name for p in tmp_path.iterdir()} == {*again["files"], "notes.txt"}
    assert "ddf.nii.gz" in again["files"] and "moving_regions.nii.gz" not in again["files"]
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    (elsewhere / "moving_regions.nii.gz").write_text("not of a registration")
    SaveRegistration(str(elsewhere), overview=False)(data)
    assert (elsewhere / "moving_regions.nii.gz").read_text() == "not of a registration"


def test_failure_leaves_the_old_result(written, tmp_path, monkeypatch):
    _, data, _ = written
    (tmp_path / "correspondence.json").write_text("old")
    (tmp_path / "moved.nii.gz").write_text("old")

    def full(*arguments, **options):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(InputError, match=r"No space left on device.*complete earlier result"):
        SaveRegistration(str(tmp_path))(data)
    assert {p.name for p in tmp_path.iterdir()} == {"correspondence.json", "moved.nii.gz"}
    assert (tmp_path / "moved.nii.gz").read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("damage", ["ddf", "score"])
def test_numbers_that_are_not_finite_are_not_written(written, tmp_path, damage):
    _, data, _ = written
    result = replace(data["pred"], ddf=data["pred"].ddf.clone())
    if damage == "ddf":
        result.ddf[0, 1, 3, 4, 5] = float("nan")
    else:
        result.matches = replace(result.matches, score=result.matches.score * float("inf"))
    with pytest.raises(InputError, match=r"not finite, so nothing was written"):
        SaveRegistration(str(tmp_path / "out"))({**data, "pred": result})
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_overwritten(written, tmp_path):
    """The same path, a link to it, and the folder of a series; checked before anything is written."""
    _, data, _ = written
    moved = tmp_path / "moved.nii.gz"
    moved.write_bytes(b"image")
    (tmp_path / "link.nii.gz").symlink_to(moved)
    for name in (moved, tmp_path / "link.nii.gz"):
        with pytest.raises(InputError, match=r"is an input as well as the output"):
            check_inputs(tmp_path, [None, name])
    with pytest.raises(InputError, match="is an input as well as the output folder"):
        hold(tmp_path, [tmp_path])
    pair = replace(data["pair"], moving=replace(data["pair"].moving, path=str(moved)))
    with pytest.raises(InputError, match=r"is an input as well as the output"):
        SaveRegistration(str(tmp_path))({**data, "pair": pair})
    assert moved.read_bytes() == b"image" and len(list(tmp_path.iterdir())) == 2
    check_inputs(tmp_path / "new", [moved])


def test_one_list_of_warnings(written, tmp_path, caplog):
    _, data, _ = written
    result = replace(data["pred"], ddf=data["pred"].ddf * 0, warnings=["of the run"])
    with caplog.at_level("WARNING"):
        pair = replace(data["pair"], warnings=("of the files",))
        SaveRegistration(str(tmp_path))(
            {**data, "pair": pair, "pred": result, "warnings": ["of a model", "of the run"]}
        )
    record = json.loads((tmp_path / "correspondence.json").read_text(encoding="utf-8"))
    assert record["warnings"][:3] == ["of the files", "of a model", "of the run"]
    assert record["warnings"][3].startswith("The mean displacement is 0 mm")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('<p class="warn">') == len(record["warnings"])
    assert all(sentence in caplog.text for sentence in record["warnings"][1:])
    assert "of the files" not in caplog.text  # logged when the pair was read


def test_doubts_are_stated(written):
    record = json.loads((written[0] / "correspondence.json").read_text(encoding="utf-8"))
    spacing = min(record["working_grid"]["spacing_mm"])
    record["metrics"] = {
        "field": {"mean_displacement_mm": 0.09 * spacing, "folds_percent": 1.1},
        "dice": {"initial": {"mean": 0.5}, "final": {"mean": 0.4}},
        "tre_mm": {"initial": {"mean": 5.0}, "final": {"mean": 4.0}},
    }
    sentences = doubts({**record, "pairs": record["pairs"][:2]})
    assert [s.split()[0] for s in sentences] == ["The", "1.1", "Only", "Dice"]
    record["metrics"]["field"] = {"mean_displacement_mm": 0.11 * spacing, "folds_percent": 0.9}
    record["metrics"]["dice"]["final"]["mean"] = 0.6
    assert doubts({**record, "pairs": record["pairs"][:3]}) == []


def test_what_cannot_be_trusted_is_said_in_the_record_on_the_page_and_by_the_exit_code(written, tmp_path):
    _, data, _ = written
    doubtful = replace(data["pred"], doubts=["The dense field was discarded."], discarded=True)
    aligned = replace(data["pair"], start=Start(np.eye(4), "affine"))
    poor = replace(
        data["pair"], start=Start(np.eye(4), "affine", ("It may be wrong.",)), warnings=("It may be wrong.",)
    )
    trusted = []
    for name, pair in (("none", data["pair"]), ("affine", aligned), ("poor", poor)):
        out = SaveRegistration(str(tmp_path / name))({**data, "pair": pair, "pred": doubtful})
        record = json.loads((tmp_path / name / "correspondence.json").read_text(encoding="utf-8"))
        trusted.append(record["trusted"])
        assert record["doubts"] == [*pair.start.doubts, "The dense field was discarded."]
        assert record["initial_alignment"] == pair.start.kind
        page = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        assert page.count('<p class="warn">') == len(record["warnings"])
        assert page.index("Doubts about this result") < page.index("The dense field was discarded.")
        evaluator = SimpleNamespace(state=SimpleNamespace(output=out))
        with contextlib.ExitStack() as stack:
            end = None if record["trusted"] else stack.enter_context(pytest.raises(SystemExit))
            finish(evaluator)
        assert end is None or end.value.code == ExitCode.NOTHING_TRUSTED == 5
    assert trusted == [False, True, False]


def test_a_replacement_that_was_interrupted_is_read_and_finished(written, tmp_path):
    """Readers take the complete result while it is being put in place, and the next run finishes the replacement."""
    _, data, _ = written
    SaveRegistration(str(tmp_path), overview=False)({**data, "pred": replace(data["pred"], ddf=data["pred"].ddf * 0)})
    still = (tmp_path / "ddf.nii.gz").read_bytes()
    SaveRegistration(str(tmp_path / "new"), overview=False)(data)
    (tmp_path / "new").rename(tmp_path / ".committed")
    (tmp_path / ".committed" / NAMES).write_text(json.dumps(["correspondence.json", []]), encoding="utf-8")
    (tmp_path / "correspondence.json").unlink()
    assert transform_paths(str(tmp_path)) == [tmp_path / ".committed" / "ddf.nii.gz"]
    [measured] = evaluate(transforms=str(tmp_path), output_dir=tmp_path / "measured", progress=False)["pairs"]
    assert measured["field/mean_displacement_mm"] > 1
    recover(tmp_path)
    assert (tmp_path / "ddf.nii.gz").read_bytes() != still and not (tmp_path / ".committed").exists()
