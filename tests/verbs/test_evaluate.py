"""``evaluate``: tables that agree with independent formulas, Learn2Reg by the rules of its code, and refused input."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts import evaluate
from scripts.common.errors import InputError
from scripts.metrics.overlap import assd
from scripts.spatial.chain import Linear
from scripts.spatial.geometry import Geometry, apply_affine
from scripts.spatial.transform_files import read_chain, write_chain
from scripts.workflow.cohort.summary import summary_lines
from scripts.workflow.outcome import ExitCode
from tests.conftest import smooth_field
from tests.test_commands import run_main


def rows(path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def by_name(report: dict) -> dict[str, dict]:
    return {row["name"]: row for row in report["pairs"]}


def case_row(files: dict[str, str], name: str, transforms: str) -> dict:
    roles = ("moving", "fixed", "moving_label", "fixed_label", "moving_landmarks", "fixed_landmarks")
    return {"name": name, "transforms": transforms} | {r: files[r] for r in roles}


def write_cases(path, entries: list[dict]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(entries[0]))
        writer.writeheader()
        writer.writerows(entries)


@pytest.fixture
def cases(heart_files, tmp_path):
    """A list of two cases: the true field, and no field."""
    write_chain(tmp_path / "still.nii.gz", [Linear(np.eye(4))], read_chain(heart_files["true_ddf"])[0].grid)
    path = tmp_path / "cases.csv"
    true, still = (case_row(heart_files, *x) for x in (("true", heart_files["true_ddf"]), ("still", "still.nii.gz")))
    write_cases(path, [true, still])
    return path


def test_tables_of_two_cases(cases, heart_files, tmp_path):
    report = evaluate(cases, tmp_path / "out", names={1: "right ventricle"}, progress=False)
    assert (report["registered"], report["failed"]) == (2, 0)
    true, still = (by_name(report)[name] for name in ("true", "still"))
    for key in ("dice", "hd95_mm", "assd_mm", "tre_mm"):
        assert still[f"{key}/mean/initial"] == still[f"{key}/mean/final"]
        better = true[f"{key}/mean/final"] - true[f"{key}/mean/initial"]
        assert better > 0.1 if key == "dice" else better < -1
    assert true["tre_mm/mean/final"] < 0.01 and true["field/folds_percent"] == 0
    assert still["field/sdlogj"] == pytest.approx(0, abs=1e-5)
    fixed, moving = (np.asarray(nib.load(heart_files[f"{r}_label"]).dataobj) for r in ("fixed", "moving"))
    for value, name in ((1, "right ventricle"), (2, "2"), (3, "3")):
        dice = 2 * ((fixed == value) & (moving == value)).sum() / ((fixed == value).sum() + (moving == value).sum())
        assert true[f"dice/{name}/initial"] == pytest.approx(dice)
    key = "dice/right ventricle/final"
    both = [row[key] for row in (true, still)]
    expected = {"mean": pytest.approx(np.mean(both)), "sd": pytest.approx(np.std(both)), "n": 2}
    assert report["metrics"][key] == expected
    table = rows(tmp_path / "out" / "summary.csv")
    assert [r["name"] for r in table] == ["true", "still", "mean", "sd"]
    assert [float(r[key]) for r in table[:3]] == pytest.approx([*both, np.mean(both)])
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8")) == report
    assert ">still<" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    lines = summary_lines(report)
    assert any(line.startswith("dice right ventricle") and "initial" in line for line in lines)
    assert lines[-1] == "2 pairs"


def test_average_surface_distance():
    a, b = torch.zeros(30, 20, 10, dtype=torch.int64), torch.zeros(30, 20, 10, dtype=torch.int64)
    a[5:15, 5:15, 2:8], b[8:18, 5:15, 2:8] = 1, 1
    edges = [x.numpy() & ~ndimage.binary_erosion(x.numpy()) for x in (a == 1, b == 1)]
    away = [ndimage.distance_transform_edt(~e, sampling=(2, 1, 3)) for e in edges]
    expected = np.concatenate([away[1][edges[0]], away[0][edges[1]]]).mean()
    assert assd(a, b, [1, 2], (2, 1, 3))[1] == pytest.approx(expected, rel=1e-5)
    assert np.isnan(assd(a, b, [2], (1, 1, 1))[2])


def test_result_folder_with_an_initial_alignment(heart_files, tmp_path):
    matrix = np.eye(4)
    matrix[0, 3] = 6.0
    folder = tmp_path / "result"
    folder.mkdir()
    chain = [*read_chain(heart_files["true_ddf"]), Linear(matrix)]
    write_chain(folder / "ddf.nii.gz", chain, chain[0].grid)
    record = {"initial_transform_ras_mm": matrix.tolist()}
    (folder / "correspondence.json").write_text(json.dumps(record), encoding="utf-8")
    one = case_row(heart_files, "", str(folder))
    del one["name"]
    [metrics] = evaluate(output_dir=tmp_path / "out", progress=False, **one)["pairs"]
    points = [np.loadtxt(heart_files[f"{r}_landmarks"], delimiter=",", skiprows=1) for r in ("fixed", "moving")]
    expected = np.linalg.norm(points[0] + [6, 0, 0] - points[1], axis=1).mean()
    assert metrics["tre_mm/mean/aligned"] == pytest.approx(expected, rel=1e-4)
    assert metrics["tre_mm/mean/final"] == pytest.approx(6.0, abs=0.05)


def learn2reg_task(folder, ending: str):
    """A task of two pairs on one grid, with labels, key points and a submission; returns the fields."""
    grid = Geometry((30, 26, 16), np.diag([2.0, 2.0, 3.0, 1.0]))
    rng = np.random.default_rng(0)
    fields, pairs = {}, []
    for sub in ("imagesTr", "labelsTr", "keypointsTr", "fields"):
        (folder / sub).mkdir()
    for case in (1, 2, 3):
        labels = np.round(np.abs(smooth_field(grid.shape, 2.0, case)[0, 0].numpy())).astype(np.uint8)
        name = f"Task_{case:04d}_0000"
        nib.save(nib.Nifti1Image(labels, grid.affine), folder / "labelsTr" / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(labels * 100, grid.affine), folder / "imagesTr" / f"{name}.nii.gz")
        np.savetxt(folder / "keypointsTr" / f"{name}.csv", rng.uniform(3, 12, (9, 3)), delimiter=",")
    for fixed, moving in ((1, 2), (2, 3)):
        disp = smooth_field(grid.shape, 1.5, fixed + 10)[0].numpy()
        fields[f"{fixed:04d}_{moving:04d}"] = disp
        stem = folder / "fields" / f"disp_{fixed:04d}_{moving:04d}"
        if ending == "npz":
            np.savez_compressed(f"{stem}.npz", np.moveaxis(disp, 0, -1))
        else:
            nib.save(nib.Nifti1Image(np.moveaxis(disp, 0, -1), grid.affine), f"{stem}.nii.gz")
        pairs.append({r: f"./imagesTr/Task_{c:04d}_0000.nii.gz" for r, c in (("fixed", fixed), ("moving", moving))})
    (folder / "task.json").write_text(json.dumps({"registration_val": pairs}), encoding="utf-8")
    return fields


def their_numbers(folder, name: str, disp: np.ndarray) -> dict:
    """Dice, TRE and SDlogJ by the formulas of the challenge's evaluation code."""
    fixed, moving = name.split("_")
    labels, points = {}, {}
    for role, case in (("fixed", fixed), ("moving", moving)):
        labels[role] = nib.load(folder / "labelsTr" / f"Task_{case}_0000.nii.gz").get_fdata()
        points[role] = np.loadtxt(folder / "keypointsTr" / f"Task_{case}_0000.csv", delimiter=",")
    index = np.stack(np.meshgrid(*[np.arange(s) for s in disp.shape[1:]], indexing="ij"))
    warped = ndimage.map_coordinates(labels["moving"], index + disp, order=0)
    dice = []
    for v in sorted(set(np.unique(labels["fixed"])) & set(np.unique(labels["moving"])) - {0}):
        a, b = labels["fixed"] == v, warped == v
        dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    at = np.stack([ndimage.map_coordinates(d, points["fixed"].T, order=1) for d in disp], axis=1)
    tre = np.linalg.norm((points["fixed"] + at - points["moving"]) * [2, 2, 3], axis=1).mean()
    slopes = np.stack([np.stack(np.gradient(d)) for d in disp]) + np.eye(3)[:, :, None, None, None]
    det = np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1)))[2:-2, 2:-2, 2:-2]
    return {"dice": np.mean(dice), "tre": tre, "sdlogj": np.log((det + 3).clip(1e-9, 1e9)).std()}


@pytest.mark.parametrize("ending", ["npz", "nii.gz"])
def test_a_learn2reg_submission_gets_the_challenge_numbers(tmp_path, ending):
    fields = learn2reg_task(tmp_path, ending)
    report = evaluate(tmp_path / "task.json", tmp_path / "out", fields=str(tmp_path / "fields"), progress=False)
    assert by_name(report).keys() == fields.keys()
    for name, disp in fields.items():
        theirs, ours = their_numbers(tmp_path, name, disp), by_name(report)[name]
        # map_coordinates ends at the last voxel centre, ours half a voxel beyond it, so a few border voxels differ.
        assert ours["dice/mean/final"] == pytest.approx(theirs["dice"], abs=0.01)
        assert ours["tre_mm/mean/final"] == pytest.approx(theirs["tre"], rel=1e-4)
        assert ours["field/sdlogj"] == pytest.approx(theirs["sdlogj"], rel=1e-3)


def test_a_submission_is_written_and_read_again(tmp_path):
    learn2reg_task(tmp_path, "nii.gz")
    options = {"fields": str(tmp_path / "fields"), "progress": False}
    first = evaluate(tmp_path / "task.json", tmp_path / "a", submission=str(tmp_path / "sent"),
                     submission_format="npz", **options)  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "sent").iterdir()) == ["disp_0001_0002.npz", "disp_0002_0003.npz"]
    second = evaluate(tmp_path / "task.json", tmp_path / "b", fields=str(tmp_path / "sent"), progress=False)
    for name, metrics in by_name(first).items():
        for key, tolerance in (("tre_mm/mean/final", {"rel": 1e-4}), ("dice/mean/final", {"abs": 2e-3})):
            assert by_name(second)[name][key] == pytest.approx(metrics[key], **tolerance)


def test_lists_saved_with_a_byte_order_mark(cases, heart_files, tmp_path):
    """As Excel saves them."""
    (tmp_path / "names.json").write_text('\ufeff{"1": "right ventricle"}', encoding="utf-8")
    cases.write_text(cases.read_text(encoding="utf-8"), encoding="utf-8-sig")
    report = evaluate(cases, tmp_path / "out", names=tmp_path / "names.json", progress=False)
    assert by_name(report).keys() == {"true", "still"} and "dice/right ventricle/final" in report["metrics"]


def test_one_bad_case_does_not_stop_the_others(cases, heart_files, tmp_path, caplog, monkeypatch):
    bad = nib.load(heart_files["true_ddf"])
    bad.header.set_intent(0)
    nib.save(bad, tmp_path / "bad.nii.gz")
    entries = rows(cases)
    lost = case_row(heart_files, "lost", "still.nii.gz") | {"moving": "lost.nii.gz"}
    write_cases(cases, [case_row(heart_files, "bad", "bad.nii.gz"), lost, *entries])
    report = evaluate(cases, tmp_path / "out", progress=False)
    told = by_name(report)
    assert (report["registered"], report["failed"]) == (2, 2) and "intent 0" in told["bad"]["error"]
    assert "lost.nii.gz does not exist" in told["lost"]["error"]
    assert "case bad" in caplog.text and summary_lines(report)[-1] == "2 pairs, 2 failed"
    assert run_main(monkeypatch, "evaluate", str(cases), "--output_dir", str(tmp_path / "out")) == ExitCode.SOME_FAILED
    write_cases(cases, [case_row(heart_files, n, "bad.nii.gz") for n in ("a", "b")])
    with pytest.raises(InputError, match=r"None of 2 cases could be evaluated; the first: .*intent 0"):
        evaluate(cases, tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


def test_what_is_refused(cases, heart_files, tmp_path):
    field, label = heart_files["true_ddf"], heart_files["fixed_label"]
    few = tmp_path / "few.csv"
    few.write_text("1 2 3\n", encoding="utf-8")
    lists = {
        "columns.csv": "name,feild\n1,x.nii.gz\n",
        "empty.csv": "name,transforms\n",
        "none.csv": "name,transforms,fixed\na,,x.nii.gz\n",
        "gone.csv": "transforms\ngone.nii.gz\n",
        "twice.csv": "name,transforms\na,still.nii.gz\na,still.nii.gz\n",
        "half.csv": f"transforms,fixed_label\nstill.nii.gz,{label}\n",
        "task.json": "{}",
        "words.json": "words",
    }
    for name, content in lists.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    for arguments, options, message in (
        (["columns.csv"], {}, "unknown column 'feild'"),
        (["empty.csv"], {}, "has no pairs"),
        (["none.csv"], {}, "has no transforms"),
        (["gone.csv"], {}, "gone.nii.gz does not exist"),
        (["twice.csv"], {}, "two cases called 'a'"),
        (["half.csv"], {}, "only the fixed_label is named"),
        (["words.json"], {}, "not valid JSON"),
        (["task.json"], {"fields": str(tmp_path)}, "has none of eval_pairs"),
        (["nowhere.csv"], {}, "does not exist"),
        ([], {}, "Nothing to evaluate"),
        ([], {"transforms": field, "names": 5}, "names must be a dictionary of structure names .*, got 5"),
        ([], {"transforms": field, "moving_label": label}, "only the moving_label is named"),
        ([], {"transforms": field, "fixed_landmarks": str(few), "moving_landmarks": heart_files["moving_landmarks"]},
         "1 fixed and 24 moving landmarks"),
        ([], {"transforms": field, "moving_label": label, "fixed_label": label, "structures": [9]}, "no structure in"),
        ([], {"transforms": field, "submission": str(tmp_path / "s")}, "name moving and fixed"),
        ([], {"transforms": field, "submission_format": "zip"}, "submission_format must be one of"),
        ([], {"transforms": field, "names": str(few)}, "not a JSON file of structure names"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            evaluate(*(tmp_path / a for a in arguments), output_dir=tmp_path / "out", progress=False, **options)
    assert not (tmp_path / "out").exists()


def test_learn2reg_landmarks_count_voxels_of_their_own_image(tmp_path):
    """Grids that differ: the fixed index plus the displacement is an index of the moving image."""
    fixed, moving = Geometry((12, 10, 8), np.diag([2.0, 2, 2, 1])), Geometry((24, 20, 16), np.diag([1.0, 1, 1, 1]))
    index = np.stack(np.meshgrid(*[np.arange(s) for s in fixed.shape], indexing="ij"))
    np.savez(tmp_path / "disp_0001_0002.npz", index.astype(np.float32))  # i -> 2 i
    for name, grid in (("f_0001", fixed), ("m_0002", moving)):
        nib.save(nib.Nifti1Image(np.ones(grid.shape, np.uint8), grid.affine), tmp_path / f"{name}.nii.gz")
    np.savetxt(tmp_path / "f.csv", [[3, 4, 5]], delimiter=",")
    np.savetxt(tmp_path / "m.csv", [[6, 8, 13]], delimiter=",")
    report = evaluate(
        output_dir=tmp_path / "out", transforms=str(tmp_path / "disp_0001_0002.npz"), learn2reg=True, progress=False,
        fixed=str(tmp_path / "f_0001.nii.gz"), moving=str(tmp_path / "m_0002.nii.gz"),
        fixed_landmarks=str(tmp_path / "f.csv"), moving_landmarks=str(tmp_path / "m.csv"),
    )  # fmt: skip
    assert report["pairs"][0]["tre_mm/mean/final"] == pytest.approx(3.0, abs=1e-3)
    expected = np.linalg.norm(apply_affine(moving.affine, [3, 4, 5]) - [6, 8, 13])
    assert report["pairs"][0]["tre_mm/mean/initial"] == pytest.approx(expected, abs=1e-3)


def test_no_table_replaces_an_input(heart_files, tmp_path, monkeypatch):
    """Refused before anything is measured."""
    monkeypatch.setattr("scripts.verbs.evaluate.measure_case", None)
    path = tmp_path / "summary.csv"
    text = f"transforms,fixed,moving\n{heart_files['true_ddf']},{heart_files['fixed']},{heart_files['moving']}\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"summary\.csv"):
        evaluate(path, tmp_path, progress=False)
    assert path.read_text(encoding="utf-8") == text and [p.name for p in tmp_path.iterdir()] == ["summary.csv"]
