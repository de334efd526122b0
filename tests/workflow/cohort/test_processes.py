"""Cohorts in separate processes: killed and resumed, locked, and distributed by torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from scripts import register
from scripts.common.errors import InputError
from scripts.workflow.cohort import case
from scripts.workflow.outcome import INTERRUPTED, ExitCode
from tests.workflow.cohort.conftest import QUICK, results, write_list

NAMES = ["heart0", "heart1", "heart2"]


def command(listed: str, out: Path, *module: str, seconds: float = 0.0) -> list[str]:
    options = {**QUICK, "everything": {**QUICK["everything"], "seconds": seconds}}
    words = [f"--{k}={json.dumps(v) if isinstance(v, dict) else v}" for k, v in options.items()]
    return [sys.executable, "-m", *module, "scripts", "register", "--pairs", listed, "--output_dir", str(out), *words]


def environment() -> dict[str, str]:
    """The same number of threads as here, so that sums are computed in the same order."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def test_killed_and_resumed_is_as_if_undisturbed(bundle, phantoms, undisturbed, tmp_path):
    """Killed when one pair is done and the next has begun; meanwhile a second process is turned away."""
    out = tmp_path / "out"
    listed = write_list(tmp_path / "list.json", phantoms)
    words = command(listed, out, seconds=1.0)
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(words, cwd=bundle, env=environment(), stdout=said, stderr=said)
        try:
            until = time.monotonic() + 300
            while not ((out / "heart0").exists() and any(out.glob(f"{case.RUNNING}/*/{case.NEW}/heart1"))):
                assert process.poll() is None and time.monotonic() < until, (tmp_path / "said").read_text()
                time.sleep(0.02)
            message = ""
            try:
                register(pairs=listed, output_dir=str(out), **QUICK)
            except InputError as error:
                message = str(error)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert f"is in use by process {process.pid}" in message
    finished = [n for n in NAMES if (out / n).exists()]
    assert "heart0" in finished and len(finished) < 3
    assert results(out, finished) == results(undisturbed, finished)  # complete or absent
    summary = register(pairs=listed, output_dir=str(out), **QUICK)
    assert summary["done_before"] == len(finished)
    assert not (out / case.KILLED).exists()
    assert results(out, NAMES) == results(undisturbed, NAMES)
    assert {p.name for p in out.iterdir()} == {*NAMES, ".cache", "summary.csv", "summary.json", "report.html"}
    assert not [p for p in out.rglob("*") if "part" in p.name or "writing" in p.name]


def test_a_killed_pair_is_named_and_comes_last(phantoms, undisturbed, tmp_path, caplog, capsys):
    half = tmp_path / "out" / case.RUNNING / "only-host-1" / case.NEW / "heart0"
    half.mkdir(parents=True)
    (half / "ddf.nii.gz").write_bytes(b"half")
    with caplog.at_level("WARNING"):
        register(pairs=write_list(tmp_path / "list.json", phantoms), output_dir=str(tmp_path / "out"), **QUICK)
    assert "A process was killed while it registered heart0" in caplog.text + capsys.readouterr().out
    written = {n: (tmp_path / "out" / n / case.RECORD).stat().st_mtime_ns for n in NAMES}
    assert max(written, key=written.get) == "heart0"
    assert results(tmp_path / "out", NAMES) == results(undisturbed, NAMES)
    assert {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()} == {*NAMES, ".cache"}


def test_ctrl_c_ends_in_one_line_and_can_be_resumed(bundle, phantoms, undisturbed, tmp_path):
    out = tmp_path / "out"
    listed = write_list(tmp_path / "list.json", phantoms)
    with (tmp_path / "said").open("wb") as said:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
        process = subprocess.Popen(command(listed, out, seconds=1.0), cwd=bundle, env=environment(), stderr=said)
        signal.signal(signal.SIGINT, before)
        until = time.monotonic() + 300
        while not any(out.glob(f"{case.RUNNING}/*/{case.NEW}/heart1/*")):
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "said").read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        # Where an interrupt passed through eval(), Python ends by the signal itself, which a shell reports as 130.
        assert process.wait(timeout=60) in (ExitCode.INTERRUPTED, -signal.SIGINT)
    assert (tmp_path / "said").read_text(encoding="utf-8").strip() == INTERRUPTED
    assert not (out / case.RUNNING).exists() and not (out / case.KILLED).exists()
    assert register(pairs=listed, output_dir=str(out), **QUICK)["done_before"] >= 1
    assert results(out, NAMES) == results(undisturbed, NAMES)


def test_processes_of_torchrun_share_the_pairs(bundle, phantoms, undisturbed, tmp_path):
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")
    words = command(write_list(tmp_path / "list.json", phantoms), tmp_path / "out", *launcher)
    run = subprocess.run(words, cwd=bundle, env=environment(), capture_output=True, encoding="utf-8", timeout=300)
    assert results(tmp_path / "out", NAMES) == results(undisturbed, NAMES), run.stderr[-3000:]
    summary, alone = (
        json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in (tmp_path / "out", undisturbed)
    )
    assert summary["shard"] in ("0/2", "1/2") and summary["metrics"] == alone["metrics"]
    assert run.returncode == bool(alone["untrusted"]), run.stderr[-3000:]  # torchrun turns every non-zero code into 1


def test_another_process_writes_the_same_bytes(bundle, phantoms, tmp_path):
    """With everything that computes in threads: the affine start, the compact SAM, the dense field."""
    row = phantoms[1]
    options = {"device": "cpu", "init": "affine", "overview": False, "inverse": True}
    register(row["moving"], row["fixed"], str(tmp_path / "here"), **options)
    words = [f"--{name}={value}" for name, value in options.items()]
    verb = [sys.executable, "-m", "scripts", "register", row["moving"], row["fixed"], "--output_dir"]
    run = subprocess.run(
        [*verb, str(tmp_path / "there"), *words], cwd=bundle, env=environment(), capture_output=True, encoding="utf-8"
    )
    assert run.returncode == 0, run.stderr[-3000:]
    here, there = (results(tmp_path, [name]) for name in ("here", "there"))
    assert any(key.endswith("inverse_ddf.nii.gz") for key in here)
    assert list(here.values()) == list(there.values())
