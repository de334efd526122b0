"""The commands of README.md and of the pages for users, run as a user runs them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts import __main__ as cli

PAGES = ("README.md", "docs/quick_start.md", "docs/images.md", "docs/training.md")


def commands(bundle: Path, pages: Sequence[str] = PAGES) -> list[str]:
    """Every command in the shell blocks of the pages, once, with continued lines joined."""
    text = "\n".join((bundle / page).read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").strip().splitlines()]
    return list(dict.fromkeys(" ".join(line.split()) for line in lines))


def test_readme_opens_with_the_two_commands(bundle):
    first, second = commands(bundle)[:2]
    assert first == ("pip install -r requirements.txt && python -m monai.bundle run --config_file configs/samreg.json")
    assert second == "pip install -r requirements-test.txt && python -m pytest"
    ci = (bundle / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install -q --disable-pip-version-check -r requirements-test.txt" in ci
    assert "python -m pytest" in ci


def test_main_command_on_the_embedded_default(bundle, tmp_path):
    """The first command, with other output folders."""
    command = shlex.split(commands(bundle)[0].split("&& ")[1])[1:]
    run = subprocess.run(
        [sys.executable, *command, "--output_dir", str(tmp_path / "out"), "--dataset_dir", str(tmp_path / "sample")],
        cwd=bundle, capture_output=True, encoding="utf-8", timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    record = json.loads((tmp_path / "out" / "correspondence.json").read_text(encoding="utf-8"))
    assert len(record["pairs"]) >= 3
    dice = record["metrics"]["dice"]
    assert dice["final"]["mean"] > dice["initial"]["mean"] + 0.05
    assert record["metrics"]["tre_mm"]["final"]["mean"] < record["metrics"]["tre_mm"]["initial"]["mean"]
    assert record["metrics"]["field"]["folds_percent"] < 0.1
    assert (tmp_path / "out" / "overview.png").stat().st_size > 50_000


def run_main(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["scripts", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_register_and_correspond(bundle, heart_files, tmp_path, monkeypatch):
    """The commands of the pages, with real paths instead of their examples."""
    lines = commands(bundle)
    register = next(line for line in lines if "scripts register" in line)
    correspond = next(line for line in lines if "scripts correspond" in line)
    for number, line in enumerate((register, correspond)):
        words = shlex.split(line)[3:]
        out = tmp_path / str(number)
        places = {"moving.nii.gz": heart_files["moving"], "fixed.nii.gz": heart_files["fixed"], "out": str(out)}
        words = [places.get(w, w) for w in words]
        if number:
            words[words.index("--points") + 1] = "[[-12.0, 2.0, 6.0]]"  # the phantom's left ventricle
        extra = ["--points_per_side", "8", "--progress", "False"]
        assert run_main(monkeypatch, *words, *extra) == 0
        assert (out / "correspondence.json").exists()
    assert not (tmp_path / "1" / "ddf.nii.gz").exists()
    assert (tmp_path / "0" / "ddf.nii.gz").exists()


def test_masks(bundle, heart_files, tmp_path, monkeypatch):
    line = next(line for line in commands(bundle) if "scripts masks" in line)
    words = shlex.split(line)[3:]
    words[words.index("moving.nii.gz")] = heart_files["moving"]
    words[words.index("--output_dir") + 1] = str(tmp_path / "masks")
    assert run_main(monkeypatch, *words, "--progress", "False") == 0
    record = json.loads((tmp_path / "masks" / "moving_masks.json").read_text(encoding="utf-8"))
    assert list(record["labels"]) == ["left ventricle cavity", "right ventricle cavity", "myocardium"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epsilom", "0.7"], "There is no option --epsilom; did you mean --epsilon"),
        (["--inverse", "no"], "--inverse must be True or False, got 'no'."),
        (["--dense=off"], "--dense must be True or False, got 'off'."),
        (["--dry_run", "yes"], "--dry_run must be True or False, got 'yes'."),
        (["--epsilon", "1.7"], "epsilon must lie in [0, 1], got 1.7."),
        (
            ["--sam", "vit_b", "--checkpoint", "gone.pth"],
            "The weights of SAM vit_b are not at gone.pth; get them from https",
        ),
        (["--sam", "vit_q"], "Unknown SAM 'vit_q'; choose one of compact"),
        (["--window", "bone"], "window must be one of auto, mr, ct, none, got 'bone'."),
        (["--device", "tpu"], "Unknown device 'tpu'"),
        (["--linking", "chain"], "linking must be auto, link or slice, got 'chain'."),
        (["--overlap", "dice"], "overlap must be smaller or iou, got 'dice'."),
        (["--matching", "best"], "matching must be one of greedy, hungarian, mutual, got 'best'."),
        (["--smoothness", "-1"], "smoothness must not be negative, got -1"),
        (["--max_pairs", "0"], "max_pairs must be at least 1, got 0."),
        (["--init", "rigid"], "moments, affine or the path of a transform, and 'rigid' is not a file."),
    ],
)
def test_bad_options_end_in_one_sentence(heart_files, tmp_path, monkeypatch, capsys, options, message):
    words = [
        "register",
        heart_files["moving"],
        heart_files["fixed"],
        "--output_dir",
        str(tmp_path),
        "--progress",
        "False",
    ]
    assert run_main(monkeypatch, *words, "--points_per_side", "4", *options) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "correspondence.json").exists()


def test_unwritable_output(heart_files, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    words = ["register", heart_files["moving"], heart_files["fixed"], "--output_dir", str(tmp_path / "file")]
    assert run_main(monkeypatch, *words) == 1
    assert "error: Nothing can be written to" in capsys.readouterr().err


def test_nothing_found_has_its_own_exit_code(heart_files, tmp_path, monkeypatch):
    words = [
        "register",
        heart_files["moving"],
        heart_files["fixed"],
        "--output_dir",
        str(tmp_path),
        "--progress",
        "False",
    ]
    assert run_main(monkeypatch, *words, "--points_per_side", "4", "--pred_iou_thresh", "1.0") == 3
    assert json.loads((tmp_path / "correspondence.json").read_text(encoding="utf-8"))["pairs"] == []
