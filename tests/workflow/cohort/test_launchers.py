"""The launchers of docs/cohorts.md: a Slurm array, an indexed Kubernetes job, and torchrun on two nodes."""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from scripts.workflow.cohort.ranks import shard_of
from tests.workflow.cohort.conftest import QUICK, results
from tests.workflow.cohort.test_processes import NAMES, environment

WORDS = [f"--{k}={json.dumps(v) if isinstance(v, dict) else v}" for k, v in QUICK.items()]


def block(bundle: Path, first: str) -> str:
    """The code block of the page that begins like this."""
    page = (bundle / "docs" / "cohorts.md").read_text(encoding="utf-8")
    return next(text for text in re.findall(r"```\w+\n(.*?)```", page, re.DOTALL) if text.startswith(first))


def sbatch_options(script: str) -> argparse.Namespace:
    """The header of a script, read by the rules of sbatch: known options only, before the first command."""
    assert script.startswith("#!"), "sbatch refuses a script without an interpreter"
    header = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    assert script.splitlines()[1 : 1 + len(header)] == [f"#SBATCH {line}" for line in header]
    parser = argparse.ArgumentParser(exit_on_error=False)
    for name, kind in (
        ("array", r"(\d+)-(\d+)"),
        ("cpus-per-task", r"\d+"),
        ("mem", r"\d+[KMGT]"),
        ("time", r"[\d:-]+"),
    ):
        parser.add_argument(f"--{name}", type=re.compile(kind).fullmatch)
    parser.add_argument("--requeue", action="store_true")
    return parser.parse_args(shlex.split(" ".join(header)))


@pytest.fixture
def place(bundle, phantoms, tmp_path) -> tuple[Path, dict[str, str]]:
    """A folder with pairs.csv, and the environment of a worker there."""
    with (tmp_path / "pairs.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, phantoms[0])
        writer.writeheader()
        writer.writerows(phantoms)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return tmp_path, {**environment(), "PYTHONPATH": str(bundle), "PATH": path}


def run_all(workers: Sequence[tuple[list[str], dict[str, str]]], folder: Path) -> None:
    """Runs commands at the same time, each with its own variables."""
    with (folder / "said").open("wb") as said:
        processes = [
            subprocess.Popen(words, cwd=folder, env=variables, stdout=said, stderr=said) for words, variables in workers
        ]
        try:
            codes = [process.wait(timeout=300) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert codes == [0] * len(codes), (folder / "said").read_text(encoding="utf-8")[-4000:]


@pytest.mark.slow
def test_slurm_array(bundle, place, undisturbed):
    folder, variables = place
    script = block(bundle, "#!/bin/bash\n#SBATCH")
    options = sbatch_options(script)
    assert options.array and options.mem and options.time and options.requeue and options.cpus_per_task
    (folder / "job.sh").write_text(f"{script.rstrip()} {shlex.join(WORDS)}\n", encoding="utf-8")
    subprocess.run(["bash", "-n", folder / "job.sh"], check=True)
    array = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "1", "SLURM_ARRAY_TASK_STEP": "1"}
    tasks = [{**array, "SLURM_ARRAY_TASK_ID": str(k)} for k in range(2)]
    assert [shard_of(None, task) for task in tasks] == [(0, 2), (1, 2)]
    run_all([(["bash", "job.sh"], variables | task) for task in tasks], folder)
    assert results(folder / "out", NAMES) == results(undisturbed, NAMES)
    assert json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))["registered"] == 3


@pytest.mark.slow
def test_kubernetes_indexed_job(bundle, place, undisturbed):
    folder, variables = place
    spec = yaml.safe_load(block(bundle, "apiVersion: batch/v1"))["spec"]
    (worker,) = spec["template"]["spec"]["containers"]
    given = {entry["name"]: entry["value"] for entry in worker["env"]}
    assert spec["completionMode"] == "Indexed" and given == {"JOB_COMPLETIONS": str(spec["completions"])}
    (mount,) = worker["volumeMounts"]
    assert mount["name"] in {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    words = [word.replace(mount["mountPath"], str(folder)) for word in worker["command"]] + WORDS
    pods = [{"JOB_COMPLETION_INDEX": str(k), "JOB_COMPLETIONS": "2"} for k in range(2)]
    run_all([(words, variables | pod) for pod in pods], folder)
    assert results(folder / "out", NAMES) == results(undisturbed, NAMES)


@pytest.mark.slow
def test_torchrun_on_two_nodes(bundle, place, undisturbed):
    """Both nodes are this machine; they meet at a port of localhost."""
    folder, variables = place
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = block(bundle, "torchrun --nnodes").replace("\\\n", " ").replace("HOST:29400", f"127.0.0.1:{port}")
    words = [*shlex.split(line.replace("--nproc_per_node 4", "--nproc_per_node 1")), *WORDS]
    run_all([([sys.executable, "-m", "torch.distributed.run", *words[1:]], variables)] * 2, folder)
    assert results(folder / "out", NAMES) == results(undisturbed, NAMES)
    assert json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))["registered"] == 3
