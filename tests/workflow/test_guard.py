"""One run at a time writes into an output folder."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch
from monai.bundle import ConfigWorkflow

from scripts.common.errors import InputError
from scripts.common.lock import locked
from scripts.workflow.guard import hold, sole_writer
from scripts.workflow.outcome import unwrapped
from scripts.workflow.run import run_bundle

BANDS = {"_target_": "tests.workflow.cohort.stand_in.Bands"}
HOLD = "import sys; from scripts.workflow.guard import hold; hold(sys.argv[1]); print('held', flush=True); input()"


def enter(folder) -> str:
    try:
        with sole_writer(folder):
            return "entered"
    except InputError as error:
        return str(error)


def test_the_same_thread_may_enter_again_and_others_may_not(tmp_path):
    with ThreadPoolExecutor(1) as other:
        with sole_writer(tmp_path / "new"):
            assert enter(tmp_path / "new") == "entered"
            assert "is in use by" in other.submit(enter, tmp_path / "new").result()
            hold(tmp_path / "new")  # does nothing: this thread has the folder
        assert other.submit(enter, tmp_path / "new").result() == "entered"


def test_hold_keeps_the_folder_until_the_program_ends(bundle, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=bundle,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"is in use by process {process.pid}"), sole_writer(tmp_path):
            pass
        process.communicate("\n", timeout=60)
    finally:
        process.kill()
    assert enter(tmp_path) == "entered"


def test_only_the_first_process_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    hold(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("configs", "options"),
    [
        (["samreg.json"], {"moving": "a.nii", "fixed": "b.nii"}),
        (["samreg.json", "correspond.json"], {"moving": "a.nii", "fixed": "b.nii", "points": [[0, 0, 0]]}),
        (["samreg.json", "cohort.json"], {"everything": BANDS}),
        (["inference.json"], {"moving": "a.nii", "fixed": "b.nii"}),
        (["inference.json", "evaluate.json"], {}),
        (["masks.json"], {"images": "a.nii"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("by_monai", [True, False])
def test_every_run_is_refused_while_another_writes(bundle, tmp_path, configs, options, by_monai):
    (tmp_path / "pairs.csv").write_text("moving,fixed\na.nii,b.nii\n", encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    listed = {"pairs": str(tmp_path / "pairs.csv")} if len(configs) > 1 and "correspond.json" not in configs else {}
    values = {**options, **listed, "output_dir": str(out)}
    with locked(out), pytest.raises(InputError, match="is in use by"), unwrapped():
        if not by_monai:
            run_bundle(configs, values)
        files = [str(bundle / "configs" / name) for name in configs]
        workflow = ConfigWorkflow(
            files, workflow_type="inference", logging_file=False, bundle_root=str(bundle), **values
        )
        workflow.initialize()
        workflow.run()
    assert {p.name for p in out.iterdir()} <= {".lock", ".lock.holder"}


def test_a_run_leaves_the_callers_threads_alone(bundle, tmp_path, monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: (seen.append(interval), 100.0)[1])
    monkeypatch.setattr(psutil, "getloadavg", lambda: (99.0, 99.0, 99.0))
    torch.set_num_threads(2)
    try:
        with pytest.raises(InputError):
            run_bundle(["masks.json"], {"images": "missing.nii", "output_dir": str(tmp_path / "out")})
        assert seen and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
