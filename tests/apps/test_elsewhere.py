"""A bundle runs from any folder by MONAI's own command, without PYTHONPATH."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom

QUIET = {"overview": False, "progress": False}
TINY = {"network_def#channels": [4, 8], "max_epochs": 1, "val_interval": 1, "crop": [24, 24, 4], "amp": "float32"}
RUNS = {
    "samreg": (["samreg.json"], {**QUIET, "points_per_side": 4, "device": "cpu"}, "ddf.nii.gz"),
    "inference": (["inference.json"], {**QUIET, "masks": None, "device": "cpu"}, "ddf.nii.gz"),
    "masks": (["masks.json"], {"progress": False, "device": "cpu", "names": ["myocardium"]}, "fixed_masks.json"),
    "cohort": (["samreg.json", "cohort.json"], {**QUIET, "points_per_side": 4, "device": "cpu"}, "summary.json"),
    "evaluate": (["inference.json", "evaluate.json"], {**QUIET, "masks": "label", "device": "cpu"}, "summary.json"),
    "train": (["train.json"], TINY, "best.pt"),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> dict[str, str]:
    return write_phantom(tmp_path_factory.mktemp("pair"), cardiac_pair(3, (40, 40, 4), (4.0, 4.0, 16.0)))


def listed(path: Path, pair: dict[str, str]) -> str:
    """Writes a list of one pair."""
    names = ("moving", "fixed", "moving_label", "fixed_label")
    row = ",".join(pair[name] for name in names)
    path.write_text(f"{','.join(names)}\n{row}\n", encoding="utf-8")
    return path.name


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_monai_runs_the_bundle_from_another_folder(bundle, pair, tmp_path, name):
    configs, options, result = RUNS[name]
    images = {"moving": pair["moving"], "fixed": pair["fixed"]}
    if name in ("cohort", "evaluate", "train"):
        images = {"pairs": listed(tmp_path / "pairs.csv", pair)}
    if name == "train":
        other = write_phantom(tmp_path / "other", cardiac_pair(4, (40, 40, 4), (4.0, 4.0, 16.0)))
        images |= {"validation_pairs": listed(tmp_path / "validation.csv", other)}
    if name == "masks":
        images = {"images": pair["fixed"]}
    values = {"bundle_root": str(bundle), "output_dir": "out", **images, **options}
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file"]
    words += [str([str(bundle / "configs" / config) for config in configs])]
    if name == "evaluate":
        values["tracking"] = str(bundle / "configs" / "tracking" / "tensorboard.json")
    words += [word for key, value in values.items() for word in (f"--{key}", str(value))]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "out" / result).is_file()
