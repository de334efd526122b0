"""Presets, the dry run, and the verb from Python."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys

import monai
import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

import scripts
from scripts import register
from scripts.common.errors import InputError
from scripts.masks.names import canonical
from scripts.masks.net import NETS
from scripts.verbs.register import preset_files, resolve
from scripts.workflow.options import check_options
from scripts.workflow.plan import plan_text
from scripts.workflow.record import flat_settings
from tests.workflow.cohort.conftest import QUICK, results, write_list
from tests.workflow.cohort.test_cohort import run_main

PRESETS = ("abdomen_ct", "cardiac_mr", "prostate_mr", "retina")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_options_that_exist_and_are_usable(bundle, name):
    files = [str(bundle / "configs" / f) for f in ("samreg.json", *preset_files(name, "samreg"))]
    overlay = json.loads((bundle / "configs" / "presets" / f"{name}.json").read_text(encoding="utf-8"))
    check_options(files[:1], overlay)
    parser = ConfigParser()
    parser.read_config(files)
    for key in ("inferer", "preprocessing"):
        parser.get_parsed_content(key)
    recorded = flat_settings(parser.get_parsed_content("parameters"))
    assert overlay.items() <= {name.rpartition(".")[2]: value for name, value in recorded.items()}.items()


@pytest.mark.parametrize("name", ["abdomen_ct", "cardiac_mr"])
def test_presets_of_the_network_fit_its_weights(bundle, name):
    configs, _ = resolve("a", "b", "out", method="network", preset=name)
    assert configs == ["inference.json", f"presets/network/{name}.json"]
    files = [str(bundle / "configs" / f) for f in configs]
    overlay = json.loads((bundle / "configs" / configs[1]).read_text(encoding="utf-8"))
    check_options(files[:1], overlay)
    parser = ConfigParser()
    parser.read_config(files)
    parser.update({"bundle_root": str(bundle)})
    network = parser.get_parsed_content("network")
    assert network.structures == len(parser.get_parsed_content("structures"))


def test_structures_of_abdomens_are_the_same_everywhere(bundle):
    """The labels of the weights index this list, so training, preset and masks must have the same order."""
    lists = [
        [canonical(n) for n in json.loads((bundle / "configs" / file).read_text(encoding="utf-8"))["structures"]]
        for file in ("presets/network/abdomen_ct.json", "datasets/abdomen_ct.json")
    ]
    assert lists[0] == lists[1] == list(NETS["abdomen"].names)


def test_presets_are_those_of_the_benchmarks(bundle):
    """The preset sets what docs/reproduce.md measured."""
    for name, folder in (("abdomen_ct", "abdomens/rois"), ("cardiac_mr", "hearts/roi_table")):
        source = (bundle / "scripts" / "benchmarks" / f"{folder}.py").read_text(encoding="utf-8")
        overlay = json.loads((bundle / "configs" / "presets" / f"{name}.json").read_text(encoding="utf-8"))
        for key, value in overlay.items():
            assert f'"{key}": {json.dumps(value)}' in source, (name, key)


def test_the_plan_of_a_pair(heart_files, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ["register", heart_files["moving"], heart_files["fixed"], "--output_dir", str(out), "--dry_run"]
    words += ["--preset", "abdomen_ct", "--points_per_side", "9", "--fixed_label", heart_files["fixed_label"]]
    assert run_main(monkeypatch, *words) == 0
    said = capsys.readouterr().out
    for part in (
        f"moving: {heart_files['moving']}, 64 x 64 x 6 voxels of 3 x 3 x 12 mm\n",
        f"fixed_label: {heart_files['fixed_label']}, 64 x 64 x 6 voxels",
        "working grid: 64 x 64 x 6 voxels of 3 x 3 x 12 mm\n",
        f"writes to {out}: moving_rois.nii.gz",
        "ddf.nii.gz, moved.nii.gz, overview.png, report.html\n",
        "configs: samreg.json, presets/abdomen_ct.json\n",
        "model: model compact, checkpoint None",
        "init affine",
        "points_per_side 9",  # the option, not the preset's 12
        "pred_iou_thresh 0.3",
    ):
        assert part in said, part
    assert not out.exists()


def test_the_plan_names_the_files_that_are_written(phantoms, tmp_path):
    single = {k: v for k, v in phantoms[0].items() if k != "name"} | {"inverse": True}
    spots = np.zeros((96, 96), np.uint8)
    spots[20:50, 30:60] = 200
    Image.fromarray(spots).save(tmp_path / "spots.png")
    picture = str(tmp_path / "spots.png")
    for name, options in (("heart", single), ("picture", {"moving": picture, "fixed": picture})):
        out, options = tmp_path / name, options | QUICK | {"overview": True}
        plan = register(output_dir=str(out), dry_run=True, **options)["plan"]
        promised = re.search(rf"writes to {out}: (.*)", plan)[1].split(", ")
        assert register(output_dir=str(out), **options)["pairs"]
        assert sorted(promised) == sorted(p.name for p in out.iterdir() if p.suffix != ".lock")


def test_the_plan_of_a_list(heart_files, tmp_path):
    rows = [
        {"name": "good", "moving": heart_files["moving"], "fixed": heart_files["fixed"]},
        {"name": "gone", "moving": "gone.nii.gz", "fixed": heart_files["fixed"]},
    ]
    listed = write_list(tmp_path / "list.json", rows)
    text = plan_text(*resolve(output_dir=str(tmp_path / "out"), pairs=listed, dense=False))
    assert "good:\n    moving: " in text
    assert f"gone:\n    will fail: {tmp_path}/gone.nii.gz does not exist" in text
    assert "2 pairs, 1 of them will fail\n" in text
    assert "ddf.nii.gz" not in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "b", "out", "list.csv", "default"), "either two images or --pairs"),
        (("a", "b", None, None, "default"), "No --output_dir"),
        (("a", None, "out", None, "default"), "No fixed image was given; name two images, or a list"),
        (("a", "b", "out", None, "heart"), "'heart'; choose one of default, abdomen_ct, cardiac_mr, prostate_mr"),
        (("a", "b", "out", None, "../samreg"), "samreg has no preset"),
    ],
)
def test_bad_calls_are_refused(arguments, message):
    moving, fixed, out, listed, preset = arguments
    with pytest.raises(InputError, match=message):
        resolve(moving, fixed, out, pairs=listed, preset=preset)


def test_settings_are_checked_without_running(heart_files, tmp_path):
    for options, message in (({"epsilon": 2.0}, "epsilon must lie"), ({"epsilom": 1}, "did you mean --epsilon")):
        with pytest.raises(InputError, match=message):
            plan_text(*resolve(heart_files["moving"], heart_files["fixed"], str(tmp_path), **options))


def test_importing_the_package_is_light(bundle):
    code = "import sys, scripts; print('register' in dir(scripts), 'torch' in sys.modules, 'monai' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, encoding="utf-8")
    assert run.stdout.split() == ["True", "False", "False"], run.stderr
    assert scripts.register is scripts.verbs.register.register
    with pytest.raises(AttributeError, match="has no attribute 'registrate'"):
        _ = scripts.registrate


@pytest.mark.parametrize("page", ["docs/quick_start.md", "docs/cohorts.md"])
def test_commands_of_the_pages(bundle, page, phantoms, tmp_path, monkeypatch):
    """Unchanged except for paths and a quick stand-in for the model; the dry run comes first."""
    text = (bundle / page).read_text(encoding="utf-8")
    line = next(t for t in text.splitlines() if t.startswith("python -m scripts register --pairs"))
    with (tmp_path / "pairs.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, phantoms[0])
        writer.writeheader()
        writer.writerows(phantoms[:1])
    places = {"pairs.csv": str(tmp_path / "pairs.csv"), "out": str(tmp_path / "out")}
    words = [places.get(w, w) for w in shlex.split(line)[3:]]
    words += [f"--{k}={json.dumps(v) if isinstance(v, dict) else v}" for k, v in QUICK.items()]
    assert run_main(monkeypatch, *words, "--dry_run") == 0
    assert not (tmp_path / "out").exists()
    assert run_main(monkeypatch, *words) == 0
    assert (tmp_path / "out" / "heart0" / "case.json").exists()


def test_the_same_with_the_command_of_monai(bundle, phantoms, undisturbed, tmp_path):
    monai.bundle.run(
        config_file=[str(bundle / "configs" / name) for name in ("samreg.json", "cohort.json")],
        meta_file=str(bundle / "configs" / "metadata.json"),
        bundle_root=str(bundle),
        pairs=write_list(tmp_path / "list.json", phantoms[:1]),
        output_dir=str(tmp_path),
        **{**QUICK, "device": "$torch.device('cpu')"},
    )
    assert results(tmp_path, ["heart0"]) == results(undisturbed, ["heart0"])


def test_the_compact_sam_reports_unfamiliar_images(phantoms, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (2, 48, 40, 3), np.uint8)
    for role, array in zip(("moving", "fixed"), pixels):
        Image.fromarray(array).resize((120, 144)).save(tmp_path / f"{role}.png")
    photos = register(str(tmp_path / "moving.png"), str(tmp_path / "fixed.png"), str(tmp_path / "photos"), **QUICK)
    unlike = " differs from the training images of the compact SAM "
    assert [w.split(unlike)[0] for w in photos["warnings"] if unlike in w] == [
        str(tmp_path / f"{role}.png") for role in ("moving", "fixed")
    ]
    hearts = register(phantoms[0]["moving"], phantoms[0]["fixed"], str(tmp_path / "hearts"), **QUICK)
    assert not any(unlike in w for w in hearts["warnings"])


def test_the_method_chooses_the_config():
    assert resolve("a", "b", "out", method="network")[0] == ["inference.json"]
    listed = resolve(output_dir="out", pairs="list.csv", method="network")[0]
    assert listed == ["inference.json", "cohort.json", "cohort_network.json"]
    with pytest.raises(InputError, match="Unknown method 'best'; choose one of samreg, network"):
        resolve("a", "b", "out", method="best")
    with pytest.raises(
        InputError, match="network has no preset 'retina'; choose one of default, abdomen_ct, cardiac_mr"
    ):
        resolve("a", "b", "out", method="network", preset="retina")
