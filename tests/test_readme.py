"""Every command and Python example of the README and the pages for users is executed by a test, here or elsewhere."""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from segment_anything import sam_model_registry
from segment_anything.build_sam import _build_sam

from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom
from scripts.sam import build
from tests.test_commands import PAGES, commands, run_main

REGISTER = "python -m scripts register"
PAIR = f"{REGISTER} moving.nii.gz fixed.nii.gz --output_dir out"
MONAI = "python -m monai.bundle"
# For each test the beginnings of the commands that it runs, unchanged except for paths and options that make them fast.
TESTS = {
    "test_commands.py::test_main_command_on_the_embedded_default": [
        f"pip install -r requirements.txt && {MONAI} run",
        f"{MONAI} run --config_file configs/samreg.json",
    ],
    "test_commands.py::test_readme_opens_with_the_two_commands": [
        "pip install -r requirements-test.txt",
        "pip install -r requirements.txt",  # .ci/run installs into a fresh environment
        "python -m venv",
    ],
    "test_commands.py::test_register_and_correspond": [PAIR, "python -m scripts correspond"],
    "test_commands.py::test_masks": ["python -m scripts masks"],
    "verbs/test_register.py::test_commands_of_the_pages": [f"{REGISTER} --pairs"],
    "verbs/test_cli.py::test_readme_commands": [
        f"python -m scripts {verb}" for verb in ("warp", "invert", "compose", "evaluate")
    ],
    "benchmarks/test_commands.py::test_compare_measures_once": ["python -m scripts.benchmarks.peers.compare"],
    "verbs/test_plot.py::test_every_value_is_drawn": ["python -m scripts plot"],
    "test_readme.py::test_dry_run": [f"{PAIR} --dry_run"],
    "test_readme.py::test_network": [f"{PAIR} --method network"],
    "test_readme.py::test_larger_models": [f"{PAIR} --sam"],
    "test_readme.py::test_pair_as_monai_workflow": [f"{MONAI} run --config_file configs/samreg.json --moving"],
    "test_readme.py::test_download_of_large_files": [f"{MONAI} download_large_files"],
    "test_readme.py::test_train_and_evaluate": [
        f"{MONAI} run --config_file configs/train.json",
        f"{MONAI} run --config_file \"['configs/inference.json','configs/evaluate.json']\"",
    ],
    "training/network/test_processes.py::test_two_processes_train_as_one": ["torchrun"],
    "training/sam/test_training.py::test_config_trains_stops_and_resumes": [
        f"{MONAI} run --config_file configs/train_sam.json"
    ],
    # Needs the data set; that its options exist is tested.
    "workflow/test_command_line.py::test_commands_of_the_pages_name_options_that_exist": [
        f"{MONAI} run --config_file \"['configs/train.json','configs/datasets/acdc.json']\""
    ],
}
EXECUTED = {start: test for test, starts in TESTS.items() for start in starts}
SMALL = ["--network_def#channels", "[4,8]", "--max_size", "32", "--window", "mr"]


def all_commands(bundle: Path) -> list[str]:
    """The lines of the shell blocks, and the complete commands within the text."""
    text = " ".join(" ".join((bundle / page).read_text(encoding="utf-8") for page in PAGES).split())
    return list(dict.fromkeys([*commands(bundle), *re.findall(r"`(python -m [^`]+ [^`]+)`", text)]))


def line_of(bundle: Path, part: str) -> list[str]:
    """The words, without "python -m", of the one command that contains ``part`` ("\\n" stands for its end)."""
    found = [line for line in all_commands(bundle) if part in f"{line}\n"]
    assert len(found) == 1, found
    return shlex.split(found[0])[2:]


def in_a_shell(bundle: Path, *words: str, cwd: Path | None = None) -> None:
    run = subprocess.run(
        [sys.executable, "-m", *words], cwd=cwd or bundle, capture_output=True, encoding="utf-8", timeout=600
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_every_command_has_its_test(bundle):
    for line in all_commands(bundle):
        fitting = [start for start in EXECUTED if line.startswith(start)]
        assert fitting, f"no test executes {line!r}"
        file, name = EXECUTED[max(fitting, key=len)].split("::")
        tree = ast.parse((bundle / "tests" / file).read_text(encoding="utf-8"))
        assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], name
    for start in EXECUTED:
        assert any(line.startswith(start) for line in all_commands(bundle)), f"no page contains {start!r}"


@pytest.fixture
def here(heart_files, tmp_path, monkeypatch):
    """A folder with the image files of the examples."""
    for role in ("moving", "fixed"):
        (tmp_path / f"{role}.nii.gz").write_bytes(Path(heart_files[role]).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_dry_run(bundle, here, monkeypatch, capsys):
    assert run_main(monkeypatch, *line_of(bundle, f"{PAIR} --dry_run")[1:]) == 0
    assert "64 x 64 x 6 voxels" in capsys.readouterr().out and not (here / "out").exists()


@pytest.mark.parametrize("page", ["README.md", "docs/quick_start.md"])
def test_python_examples(bundle, here, page):
    """They run as printed, except for fewer prompts on a coarser grid."""
    [code] = re.findall(r"```python\n(.*?)```", (bundle / page).read_text(encoding="utf-8"), re.S)
    code = re.sub(r"(register\(.*)\)", r"\1, points_per_side=8, max_size=40, progress=False)", code)
    names: dict = {}
    exec(code, names)
    assert names["result"]["pairs"] and (here / "out" / "ddf.nii.gz").exists()


def test_links_lead_somewhere(bundle):
    """Every relative link of every page names a file, and its anchor a heading."""
    for page in (*bundle.glob("*.md"), *(bundle / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if target.startswith(("http", "mailto:")):
                continue
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), f"{page.name} links to {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
                slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor in slugs, f"{page.name} links to {target}"


def test_readme_is_short(bundle):
    assert len((bundle / "README.md").read_text(encoding="utf-8").split()) < 900


def test_network(bundle, here, monkeypatch):
    """Uses the bundled weights and masks of the bundled cardiac network."""
    assert run_main(monkeypatch, *line_of(bundle, "--method network\n")[1:], "--progress", "False") == 0
    record = json.loads((here / "out" / "correspondence.json").read_text(encoding="utf-8"))
    assert record["method"]["name"] == "network" and record["parameters"]["checkpoint"].endswith("models/model.pt")
    assert record["metrics"]["field"]["mean_displacement_mm"] > 0.1 and (here / "out" / "moved.nii.gz").exists()


def test_network_for_abdomens(bundle, here, monkeypatch, capsys):
    """Its accuracy is measured on real data (tests/network/test_shipped.py)."""
    words = line_of(bundle, "--method network --preset abdomen_ct")
    assert run_main(monkeypatch, *words[1:], "--dry_run") == 0
    said = capsys.readouterr().out
    assert "model_abdomen.pt" in said and "registration.settings.steps 20" in said


def test_pair_as_monai_workflow(bundle, here):
    words = line_of(bundle, "run --config_file configs/samreg.json --moving")
    places = {"moving.nii.gz": str(here / "moving.nii.gz"), "fixed.nii.gz": str(here / "fixed.nii.gz")}
    words = [{**places, "out": str(here / "out")}.get(w, w) for w in words]
    in_a_shell(bundle, *words, "--points_per_side", "8", "--max_size", "40", "--dense", "False", "--device", "cpu")
    assert (here / "out" / "moving_rois.nii.gz").exists()


def test_larger_models(bundle, here, monkeypatch):
    """A ViT of two small layers, saved under the name of the released weights, replaces the download."""

    def small_vit(checkpoint=None):
        torch.manual_seed(0)
        return _build_sam(48, 2, 2, [1], checkpoint)

    path = here / "models" / build.RELEASED["vit_b"][0]
    path.parent.mkdir()
    torch.save(small_vit().state_dict(), path)
    released = (path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(sam_model_registry, "vit_b", small_vit)
    monkeypatch.setattr(build, "MODELS", path.parent)
    monkeypatch.setitem(build.RELEASED, "vit_b", released)
    words = [*line_of(bundle, "--sam vit_b")[1:], "--points_per_side", "2", "--progress", "False", "--device", "cpu"]
    assert run_main(monkeypatch, *words, "--slice_spacing_mm", "40") in (0, 3)  # 3: random weights match nothing
    record = json.loads((here / "out" / "correspondence.json").read_text(encoding="utf-8"))
    assert record["parameters"]["sam"] == "vit_b" and record["warnings"]
    path.write_bytes(path.read_bytes() + b"x")
    assert run_main(monkeypatch, *words) == 1  # the hash no longer fits


def test_download_of_large_files(bundle, tmp_path):
    """Runs on a copy of the list whose addresses are local files, and checks what arrives."""
    listed = yaml.safe_load((bundle / "large_files.yml").read_text(encoding="utf-8"))
    for number, entry in enumerate(listed["large_files"]):
        content = f"weights {number}".encode()
        (tmp_path / f"server{number}.pth").write_bytes(content)
        entry |= {"url": (tmp_path / f"server{number}.pth").as_uri(), "hash_val": hashlib.sha256(content).hexdigest()}
    home = tmp_path / "bundle"
    (home / "models").mkdir(parents=True)
    (home / "large_files.yml").write_text(yaml.safe_dump(listed), encoding="utf-8")
    in_a_shell(bundle, *line_of(bundle, "download_large_files"), cwd=home)
    for number, entry in enumerate(listed["large_files"]):
        assert (home / entry["path"]).read_bytes() == f"weights {number}".encode()


def test_train_and_evaluate(bundle, tmp_path):
    rows = []
    for seed in range(2):
        paths = write_phantom(tmp_path / str(seed), cardiac_pair(seed, (32, 32, 4), (6.0, 6.0, 16.0)))
        rows.append({k: paths[k] for k in ("moving", "fixed", "moving_label", "fixed_label")})
    for name, row in zip(("training.csv", "validation.csv"), rows):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as stream:
            csv.DictWriter(stream, list(row)).writeheader()
            csv.DictWriter(stream, list(row)).writerow(row)
    places = {n: str(tmp_path / n) for n in ("training.csv", "validation.csv", "best.pt")}
    words = [places.get(w, w) for w in line_of(bundle, "--config_file configs/train.json")]
    quick = ["--max_epochs", "1", "--val_interval", "1", "--crop", "[24,24,4]", "--amp", "None"]
    in_a_shell(bundle, *words, *SMALL, *quick, "--output_dir", str(tmp_path))
    assert (tmp_path / "best.pt").exists()
    words = [places.get(w, w) for w in line_of(bundle, "configs/evaluate.json")]
    in_a_shell(bundle, *words, *SMALL, "--masks", "label", "--output_dir", str(tmp_path / "numbers"))
    summary = json.loads((tmp_path / "numbers" / "summary.json").read_text(encoding="utf-8"))
    assert {"dice/mean/initial", "dice/mean/final"} <= set(summary["metrics"])
