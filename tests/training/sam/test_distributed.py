"""The training of the compact SAM under torchrun: two processes learn from different views and share one model."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from monai.bundle import ConfigWorkflow

from scripts.sam.compact import compact_sam

TINY = {"tokens": 16, "embed_dim": 32, "mlp_dim": 64, "channels": [8, 16, 16, 32], "depths": [1, 1, 1, 1],
        "attention_depth": 1}  # fmt: skip
# Each process records the gradients that both have after the backward pass, and those that the same network
# computes from the process's own views alone.
TRAIN = """
import json, os, sys
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.engines.utils import IterationEvents
files, options, out = json.loads(sys.argv[1])
rank = int(os.environ["RANK"])
flow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **options)
flow.initialize()
flow.parser.get_parsed_content("prepare")
trainer = flow.parser.get_parsed_content("train#trainer")
notes = {"views": [], "gradients": [], "alone": []}
loss = trainer.loss_function
def alone(engine):
    views = engine.state.batch
    notes["views"].append({k: v.clone() for k, v in views.items()})
    torch.manual_seed(7)
    module = engine.network.module
    module.zero_grad()
    loss(module(**views)).backward()
    notes["alone"].append({k: p.grad.clone() for k, p in module.named_parameters() if p.grad is not None})
    module.zero_grad()
    torch.manual_seed(7)
def shared(engine):
    found = {k: p.grad for k, p in engine.network.module.named_parameters() if p.grad is not None}
    notes["gradients"].append({k: g.clone() for k, g in found.items()})
trainer.add_event_handler(Events.ITERATION_STARTED, alone)
trainer._event_handlers[IterationEvents.BACKWARD_COMPLETED].insert(0, (shared, (trainer,), {}))  # before the clipping
flow.run()
notes["state"] = trainer.network.module.state_dict()
torch.save(notes, f"{out}/{rank}.pt")
flow.finalize()
"""


@pytest.mark.slow
def test_two_processes_average_their_gradients(bundle, tmp_path):
    options = {
        "bundle_root": str(bundle), "output_dir": str(tmp_path / "run"), "dataset_dir": str(tmp_path / "slices"),
        "weights": str(tmp_path / "weights.pt"), "train#slices#phantoms": 2, "train#slices#shapes": 1,
        "validate#slices#phantoms": 2, "validate#dataset#length": 4, "samples_per_epoch": 4, "batch_size": 2,
        "num_workers": 0, "validate#dataloader#num_workers": 0, "max_epochs": 1, "tokens": 16, "amp": "float32",
        "network_def": {"_target_": "scripts.sam.compact.compact_sam", **TINY},
    }  # fmt: skip
    files = [str(bundle / "configs" / name) for name in ("train_sam.json", "multi_gpu_train_sam.json")]
    script = tmp_path / "train.py"
    script.write_text(TRAIN, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29533", str(script),
         json.dumps([files, options, str(tmp_path)])],
        cwd=bundle, capture_output=True, encoding="utf-8", timeout=300,
        env={**os.environ, "PYTHONPATH": str(bundle), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for a, b in zip(first["views"], second["views"]):
        assert not torch.equal(a["image"], b["image"])
    assert len(first["gradients"]) == 2
    for got, *own in zip(first["gradients"], first["alone"], second["alone"]):
        assert set(got) == set(own[0]) | set(own[1])
        for name, value in got.items():
            mean = sum(part[name] for part in own if name in part) / 2
            torch.testing.assert_close(value, mean, rtol=1e-3, atol=1e-5)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name])
    compact_sam(**TINY).load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))

    alone = ConfigWorkflow(files[:1], workflow_type="train", **{**options, "max_epochs": 2})
    alone.initialize()
    alone.run()  # one process resumes what two have begun
    assert alone.parser.get_parsed_content("train#trainer").state.iteration == 4
