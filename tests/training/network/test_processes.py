"""A training as a command and in several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.network.model import CrossFusionNet
from tests.training.network.test_training_config import SMALL, lists

__all__ = ["lists"]  # the fixture


@pytest.mark.slow
def test_strides_on_the_command_line(bundle, lists, tmp_path):
    words = ["-m", "monai.bundle", "run", "--config_file", str(bundle / "configs" / "train.json")]
    options = {**lists, **SMALL, "output_dir": str(tmp_path), "max_epochs": 1, "bundle_root": str(bundle)}
    for key, value in options.items():
        words += [f"--{key}", str(value).replace(" ", "")]
    done = subprocess.run(
        [sys.executable, *words], cwd=bundle, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "best.pt").exists()


@pytest.mark.slow
def test_more_processes_than_validation_pairs(bundle, lists, tmp_path):
    rows = Path(lists["validation_pairs"]).read_text(encoding="utf-8").splitlines()
    (tmp_path / "one.csv").write_text("\n".join(rows[:2]), encoding="utf-8")
    files = [str(bundle / "configs" / f) for f in ("train.json", "multi_gpu_train.json")]
    words = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29533"]
    words += ["-m", "monai.bundle", "run", "--config_file", str(files)]
    options = {**lists, **SMALL, "validation_pairs": str(tmp_path / "one.csv"), "output_dir": str(tmp_path / "out")}
    for key, value in {**options, "max_epochs": 1, "bundle_root": str(bundle)}.items():
        words += [f"--{key}", str(value).replace(" ", "")]
    done = subprocess.run(
        [sys.executable, *words], cwd=bundle, capture_output=True, encoding="utf-8", timeout=300,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "best.pt").exists()


@pytest.mark.slow
def test_two_processes_train_as_one(bundle, lists, tmp_path):
    """Gloo on the CPU: the same global batch gives the same loss curve."""
    curves = {}
    for name, files, batch in (("one", ["train.json"], 2), ("two", ["train.json", "multi_gpu_train.json"], 1)):
        out = tmp_path / name
        options = {**SMALL, **lists, "output_dir": str(out), "bundle_root": str(bundle), "max_epochs": 3}
        options |= {"batch_size": batch, "train#random": {}, "val_interval": 10}
        options["loss_terms#contour#max_points"] = 100_000
        script = tmp_path / f"{name}.py"
        script.write_text(
            "import json, sys\n"
            "from monai.bundle import ConfigWorkflow\n"
            "from ignite.engine import Events\n"
            "import torch.distributed as dist\n"
            "files, options, out = json.loads(sys.argv[1])\n"
            "w = ConfigWorkflow(files, workflow_type='train', logging_file=False, **options)\n"
            "w.initialize()\n"
            "w.parser.get_parsed_content('prepare')\n"
            "losses = []\n"
            "t = w.parser.get_parsed_content('train#trainer')\n"
            "def note(e):\n"
            "    x = e.state.output[0]['loss'].detach().clone()\n"
            "    if dist.is_initialized():\n"
            "        dist.all_reduce(x); x = x / dist.get_world_size()\n"
            "    losses.append(float(x))\n"
            "t.add_event_handler(Events.ITERATION_COMPLETED, note)\n"
            "w.run()\n"
            "import os; os.environ.get('RANK', '0') == '0' and open(out, 'w').write(json.dumps(losses))\n"
            "w.finalize()\n",
            encoding="utf-8",
        )
        arguments = json.dumps([[str(bundle / "configs" / f) for f in files], options, str(tmp_path / f"{name}.json")])
        launch = (
            ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29531"] if batch == 1 else []
        )
        done = subprocess.run(
            [sys.executable, *launch, str(script), arguments], cwd=bundle, capture_output=True,
            encoding="utf-8", timeout=300, env={**os.environ, "PYTHONPATH": str(bundle), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        curves[name] = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert (out / "best.pt").exists()
    assert len(curves["one"]) == 3
    np.testing.assert_allclose(curves["two"], curves["one"], rtol=2e-3)


@pytest.mark.slow
def test_two_processes_measure_as_one(bundle, lists, tmp_path):
    summaries = []
    torch.manual_seed(0)
    net = CrossFusionNet(channels=(4, 8), strides=(2, 2, 1), window=(4, 4, 2), diffeomorphic=True)
    torch.nn.init.normal_(net.levels[0].head.weight, std=0.03)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    files = [str(bundle / "configs" / f) for f in ("inference.json", "evaluate.json", "multi_gpu_evaluate.json")]
    for count in (1, 2):
        out = tmp_path / str(count)
        words = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29532"] * (count - 1)
        words += ["-m", "monai.bundle", "run", "--config_file", str(files[: 1 + count])]
        words += ["--pairs", lists["validation_pairs"], "--output_dir", str(out), "--bundle_root", str(bundle)]
        words += [
            "--checkpoint",
            str(tmp_path / "net.pt"),
            "--network_def#channels",
            "[4,8]",
            "--progress",
            "False",
            "--max_size",
            "32",
        ]
        done = subprocess.run(
            [sys.executable, *words], cwd=bundle, capture_output=True, encoding="utf-8", timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        summaries.append(json.loads((out / "summary.json").read_text(encoding="utf-8")))
    assert [s["registered"] for s in summaries] == [2, 2]
    assert set(summaries[0]["metrics"]) == set(summaries[1]["metrics"])
    for key, value in summaries[0]["metrics"].items():
        assert summaries[1]["metrics"][key]["mean"] == pytest.approx(value["mean"], rel=1e-3, abs=1e-3)
