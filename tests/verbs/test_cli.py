"""The verbs on the command line: the README's own lines, one sentence for bad input, a light import."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

import scripts
from scripts import __main__ as cli
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
    for name in ("moved_labels.nii.gz", "moving_points.fcsv", "inverse.nii.gz", "field.h5", "numbers/metrics.json"):
        assert (tmp_path / name).exists()
    found = read_landmark_file(tmp_path / "moving_points.fcsv").points_ras
    np.testing.assert_allclose(found, heart.moving_landmarks, atol=0.05)
    metrics = json.loads((tmp_path / "numbers" / "metrics.json").read_text(encoding="utf-8"))["cases"]["1"]
    assert metrics["dice"]["final"]["mean"] > 0.9 > metrics["dice"]["initial"]["mean"]
    shown = capsys.readouterr().out
    assert "p95_mm" in shown and "dice mean" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["warp", "gone.nii.gz", "o.nii.gz", "gone.h5"], "gone.h5 does not exist"),
        (["invert", "gone.h5", "o.nii.gz"], "gone.h5 does not exist"),
        (["compose", "gone.h5", "o.jpg"], "ends in none of"),
        (["warp", "a.nii.gz", "o.nii.gz", "gone.h5", "--label", "no"], "--label must be True or False, got 'no'."),
        (["invert", "gone.h5", "o.h5", "--progress", "off"], "--progress must be True or False, got 'off'."),
        (["masks", "a.nii.gz", "LV", "out", "--progress", "0"], "--progress must be True or False, got 0."),
        (["wrap", "a", "b", "c"], "There is no command 'wrap'; choose one of register, correspond, masks, warp"),
        (["invert", "gone.h5"], "required argument: output; python -m scripts invert --help says what it takes."),
        (["register", "a.png", "b.png", "out", "extra"], "'extra' is one word too many; python -m scripts register"),
        (["evaluate", "gone.csv"], "gone.csv cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, tmp_path, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, *words) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]


def test_words_that_nobody_knows_stop_a_command_before_its_work(heart_files, tmp_path, monkeypatch, capsys):
    words = ["warp", heart_files["moving"], str(tmp_path / "moved.nii.gz"), heart_files["true_ddf"]]
    for extra, message in (
        (["--interpolatoin", "cubic"], "There is no option --interpolatoin; did you mean --interpolation?"),
        (["--Learn2Reg"], "There is no option --Learn2Reg; did you mean --learn2reg"),
        (["extra.nii.gz", "m.nii.gz", "True", "linear", "0", "0", "x", "ras", "False", "False", "14"], "'14' is one"),
    ):
        assert run_main(monkeypatch, *words, *extra) == 1
        shown = capsys.readouterr()
        assert shown.err.startswith(f"error: {message}") and len(shown.err.splitlines()) == 1
        assert not list(tmp_path.iterdir())


def test_help(monkeypatch, capsys):
    for words in ([], ["--help"], ["warp", "a", "b", "c", "--help"], ["register", "-h"]):
        assert run_main(monkeypatch, *words) == 0
        text = "".join(capsys.readouterr())
        assert "SYNOPSIS" in text and "FIRE_METADATA" not in text
    for verb in cli.VERBS:
        run_main(monkeypatch, verb, "--help")
        text = capsys.readouterr().err
        assert ":func:" not in text and not any(line.endswith(" see") for line in text.splitlines())


def test_importing_the_package_loads_nothing(bundle):
    code = "import sys, scripts; print('torch' in sys.modules, 'monai' in sys.modules, scripts.warp.__name__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, text=True, encoding="utf-8")
    assert run.stdout.split() == ["False", "False", "warp"]
    assert set(scripts.VERBS) <= set(dir(scripts))
    with pytest.raises(AttributeError, match="no attribute 'wrap'"):
        _ = scripts.wrap
