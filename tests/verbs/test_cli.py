"""The verbs on the command line: the README's own lines, one sentence for bad input, fast imports."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

import scripts
from scripts.spatial.landmark_files import Landmarks, read_landmark_file, write_landmark_file
from tests.test_commands import commands, run_main

VERBS = ("scripts warp", "scripts invert", "scripts compose", "scripts evaluate")


def test_readme_commands(bundle, heart, heart_files, tmp_path, monkeypatch, capsys):
    lines = [line for line in commands(bundle) if any(verb in line for verb in VERBS)]
    assert len(lines) == 5 and all(any(verb in line for line in lines) for verb in VERBS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    shutil.copy(heart_files["true_ddf"], tmp_path / "out" / "ddf.nii.gz")
    for role, name in (("moving_label", "labels"), ("fixed_label", "fixed_labels"), ("moving", "moving")):
        shutil.copy(heart_files[role], tmp_path / f"{name}.nii.gz")
    write_landmark_file(tmp_path / "fixed_points.fcsv", Landmarks(heart.fixed_landmarks))
    for line in lines:
        assert run_main(monkeypatch, *shlex.split(line)[3:]) == 0
    for name in ("moved_labels.nii.gz", "moving_points.fcsv", "inverse.nii.gz", "field.h5", "numbers/summary.json"):
        assert (tmp_path / name).exists()
    found = read_landmark_file(tmp_path / "moving_points.fcsv").points_ras
    np.testing.assert_allclose(found, heart.moving_landmarks, atol=0.05)
    [row] = json.loads((tmp_path / "numbers" / "summary.json").read_text(encoding="utf-8"))["pairs"]
    assert row["dice/mean/final"] > 0.9 > row["dice/mean/initial"]
    shown = capsys.readouterr().out
    assert "p95_mm" in shown and "dice mean" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["warp", "gone.nii.gz", "o.nii.gz", "gone.h5"], "gone.h5 does not exist"),
        (["invert", "gone.h5", "o.nii.gz"], "gone.h5 does not exist"),
        (["compose", "gone.h5", "o.jpg"], "ends in none of"),
        (["invert", "gone.h5"], "invert needs output; python -m scripts invert --help shows what it takes."),
        (["evaluate", "gone.csv"], "gone.csv does not exist"),
        (["register", "a.png", "b.png", "out", "--device", "None"], "Unknown device None"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, tmp_path, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, *words) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0]


def test_errors_show_no_internals(heart_files, tmp_path):
    """Neither on the terminal nor in the log, where MONAI and Ignite would print an object and its address."""
    words = [heart_files["moving"], heart_files["moving_label"] + ".gone", "--output_dir", str(tmp_path / "out")]
    run = subprocess.run([sys.executable, "-m", "scripts", "register", *words], capture_output=True, encoding="utf-8")
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and len(run.stderr.splitlines()) == 1
    assert "object at 0x" not in run.stdout and "Traceback" not in run.stdout


def test_the_mask_of_a_prompt_is_not_replaced(heart_files, tmp_path, monkeypatch, capsys):
    mask = tmp_path / "moving_rois.nii.gz"
    shutil.copy(heart_files["moving_label"], mask)
    before = mask.read_bytes()
    words = ["correspond", heart_files["moving"], heart_files["fixed"], str(tmp_path), "--mask", str(mask)]
    assert run_main(monkeypatch, *words, "--progress", "False") == 1
    assert "moving_rois.nii.gz" in capsys.readouterr().err and mask.read_bytes() == before


def test_a_library_keeps_its_logging_and_hooks(heart_files, tmp_path):
    code = (
        "import logging, sys, scripts\n"
        "before = [*logging.getLogger().handlers], logging.getLogger().level, sys.excepthook\n"
        f"scripts.register({heart_files['moving']!r}, {heart_files['fixed']!r}, {str(tmp_path / 'out')!r},"
        " points_per_side=4, dense=False, overview=False, progress=False)\n"
        "assert before == ([*logging.getLogger().handlers], logging.getLogger().level, sys.excepthook)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    assert run.stdout == "" and "Logging" not in run.stderr


def test_importing_the_package_loads_nothing(bundle):
    code = "import sys, scripts; print('torch' in sys.modules, 'monai' in sys.modules, scripts.warp.__name__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, encoding="utf-8")
    assert run.stdout.split() == ["False", "False", "warp"]
    assert set(scripts.VERBS) <= set(dir(scripts))
    with pytest.raises(AttributeError, match="no attribute 'wrap'"):
        _ = scripts.wrap
