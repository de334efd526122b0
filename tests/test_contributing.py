"""The extension points of docs/contributing.md: each test adds one, as the page describes."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from scripts.common.errors import InputError
from scripts.data.reader import read_volume
from scripts.losses.pair import LossPair
from scripts.masks import build as sources
from scripts.metrics import assembly, overlap
from scripts.sam import build
from scripts.verbs import register as verb
from scripts.verbs.evaluate import evaluate


def example(bundle: Path, title: str, language: str, number: int = 0) -> str:
    """A code block of a section of docs/contributing.md."""
    page = (bundle / "docs" / "contributing.md").read_text(encoding="utf-8")
    [section] = [part for part in re.split(r"^## ", page, flags=re.M) if part.startswith(f"{title}\n")]
    return re.findall(rf"```{language}\n(.*?)```", section, re.S)[number]


def add_module(name: str, code: str, tmp_path: Path, monkeypatch) -> ModuleType:
    """Loads code as if it were the file of this module, relative imports included."""
    parent, _, last = name.rpartition(".")
    path = tmp_path / f"{last}.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(importlib.import_module(parent), last, module, raising=False)
    spec.loader.exec_module(module)
    return module


def overlaid(bundle: Path, config: str, overlay: str, tmp_path: Path) -> ConfigParser:
    """A config of the bundle with an overlay on top, as MONAI's runner reads them."""
    path = tmp_path / "overlay.json"
    path.write_text(overlay, encoding="utf-8")
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / config), str(path)])
    return parser


@pytest.fixture
def own_configs(bundle, tmp_path, monkeypatch) -> Path:
    """A copy of the configs that the verbs read instead of the bundle's own, so that files can be added."""
    copy = Path(shutil.copytree(bundle / "configs", tmp_path / "configs"))
    for name, module in list(sys.modules.items()):
        if name.startswith("scripts.") and getattr(module, "CONFIGS", None) == bundle / "configs":
            monkeypatch.setattr(module, "CONFIGS", copy)
    return copy


def test_a_preset_is_one_file(bundle, own_configs):
    values = json.loads(example(bundle, "A preset", "json"))
    (own_configs / "presets" / "mine.json").write_text(json.dumps(values), encoding="utf-8")
    configs, _ = verb.resolve("a.nii.gz", "b.nii.gz", "out", preset="mine")
    assert configs == ["samreg.json", "presets/mine.json"]
    known = json.loads((own_configs / "samreg.json").read_text(encoding="utf-8"))
    assert set(values) <= set(known)


def test_a_loss_term_is_one_class_and_one_entry(bundle, tmp_path, monkeypatch):
    add_module("scripts.losses.squares", example(bundle, "A loss term", "python"), tmp_path, monkeypatch)
    parser = overlaid(bundle, "train.json", example(bundle, "A loss term", "json"), tmp_path)
    loss = parser.get_parsed_content("loss_function")
    assert "squares" in loss.active and "contour" not in loss.active
    images = torch.stack([torch.full((6, 5, 4), 0.7), torch.full((6, 5, 4), 0.2)]).double()
    pair = LossPair(images, torch.zeros(2, 6, 5, 4), 3, [1.0, 1.0, 1.0])
    still = torch.zeros(1, 3, 6, 5, 4, dtype=torch.float64)
    term = loss.active["squares"]
    assert float(term(still, pair)) == pytest.approx(0.25) and term.weight == 2.0
    pair.images = torch.rand(2, 6, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = (still + 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda ddf: term(ddf, pair), inside)


def test_a_metric_is_one_function_and_one_line(bundle, heart_files, tmp_path, monkeypatch):
    for registry in (assembly.LABEL_METRICS, assembly.TITLES):
        monkeypatch.setitem(registry, "volume_percent", None)  # so that the line of the example is undone
    names = {**vars(overlap), "LABEL_METRICS": assembly.LABEL_METRICS, "TITLES": assembly.TITLES}
    for number in range(2):
        exec(example(bundle, "A metric", "python", number), names)
    moved, fixed = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    moved[:4] = fixed[:3] = 1
    found = assembly.label_metrics([("final", moved)], fixed, [1], [1.0, 1.0])
    assert found["volume_percent"]["final"][1] == pytest.approx(100 / 3)
    evaluate(
        transforms=heart_files["true_ddf"], moving_label=heart_files["moving_label"],
        fixed_label=heart_files["fixed_label"], output_dir=str(tmp_path), progress=False,
    )  # fmt: skip
    [row] = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["pairs"]
    assert abs(row["volume_percent/mean/final"]) < abs(row["volume_percent/mean/initial"])


QUICK = {"max_size": 48, "dense": False, "overview": False, "progress": False, "device": "cpu"}


def test_a_sam_is_one_function_and_one_line(bundle, heart_files, own_configs, tmp_path, monkeypatch):
    lab = add_module("scripts.sam.lab", example(bundle, "A SAM", "python"), tmp_path, monkeypatch)
    monkeypatch.setitem(build.SAMS, "lab", None)  # so that the line of the example is undone
    exec(example(bundle, "A SAM", "python", 1), {**vars(build), "lab_sam": lab.lab_sam})
    (own_configs / "sam" / "lab.json").write_text(example(bundle, "A SAM", "json"), encoding="utf-8")
    weights = str(bundle / "models" / "compact_sam.pt")  # they fit any number of tokens
    pair = heart_files["moving"], heart_files["fixed"], str(tmp_path / "out")
    record = verb.register(*pair, sam="lab", checkpoint=weights, **QUICK)
    assert record["pairs"] and record["parameters"]["sam"] == "lab"
    assert '"points_per_side": 8' in json.dumps(record["parameters"])


def test_a_matcher_is_one_class_and_one_config_object(bundle, heart_files, tmp_path, monkeypatch):
    add_module("scripts.roi.nearest", example(bundle, "A matcher", "python"), tmp_path, monkeypatch)
    overlay = json.loads(example(bundle, "A matcher", "json"))
    pair = heart_files["moving"], heart_files["fixed"], str(tmp_path / "out")
    record = verb.register(*pair, points_per_side=8, **overlay, **QUICK)
    assert record["parameters"]["registration"]["matcher"]["max_mm"] == 15.0
    apart = [math.dist(p["moving"]["centroid_ras_mm"], p["fixed"]["centroid_ras_mm"]) for p in record["pairs"]]
    assert apart and max(apart) < 15.0 + 1.0  # the record has centroids on the native grids


def test_a_mask_source_is_one_class_and_one_line(bundle, tmp_path, monkeypatch):
    air = add_module("scripts.masks.air", example(bundle, "A mask source", "python"), tmp_path, monkeypatch)
    monkeypatch.setitem(sources.WITHOUT, "air", None)  # so that the line of the example is undone
    exec(example(bundle, "A mask source", "python", 1), {**vars(sources), "AirSource": air.AirSource})
    image = np.full((20, 20, 4), 40.0)
    image[:2], image[8:12, 8:12] = -1000.0, -800.0  # air around the body, and air within it
    nib.save(nib.Nifti1Image(image, np.diag([2.0, 2.0, 5.0, 1.0])), tmp_path / "ct.nii.gz")
    masks = sources.build_source("air", {"below_hu": -700.0})(read_volume(tmp_path / "ct.nii.gz"), "lungs")
    assert masks.names == ("lung",)
    assert np.array_equal(masks.labels, (image == -800).astype(np.uint8))
    with pytest.raises(InputError, match="has no option 'above_hu'"):
        sources.build_source("air", {"above_hu": 0})
