"""The main job in a fresh virtual environment that contains the packages of requirements.txt and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_main_job_needs_the_run_time_requirements_only(bundle, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", "requirements.txt"]
    subprocess.run(install, cwd=bundle, check=True, env=clean)
    out = tmp_path / "out"
    command = [python, "-m", "monai.bundle", "run", "--config_file", "configs/samreg.json", "--output_dir", str(out)]
    command += ["--dataset_dir", str(tmp_path / "sample")]
    run = subprocess.run(command, cwd=bundle, env=clean, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr[-3000:]
    dice = json.loads((out / "correspondence.json").read_text(encoding="utf-8"))["metrics"]["dice"]
    assert dice["final"]["mean"] > dice["initial"]["mean"] + 0.1
    assert (out / "report.html").exists()
