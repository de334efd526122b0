"""Handlers, resuming, devices, and exit codes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import TimeLimit
from monai.engines import SupervisedTrainer
from monai.optimizers import WarmupCosineSchedule
from torch.utils.data import DataLoader

from scripts.common.device import pick_device
from scripts.common.errors import InputError
from scripts.training.handlers import ClipGradients, LogTerms, On
from scripts.training.resume import Resume
from scripts.training.sam.inferer import WeightedSum
from scripts.workflow import outcome
from scripts.workflow.outcome import input_error


def trainer_of(handlers, epochs: int, network=None) -> SupervisedTrainer:
    network = network or torch.nn.Linear(2, 1)
    data = [{"image": torch.ones(2) * i, "label": torch.ones(1) * 100 * i} for i in range(4)]
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(data, batch_size=2),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 1.0),
        loss_function=torch.nn.MSELoss(),
        train_handlers=handlers,
        decollate=False,
    )


def test_gradients_are_clipped():
    network = torch.nn.Linear(2, 1)
    before = [p.detach().clone() for p in network.parameters()]
    trainer_of([ClipGradients(0.1)], 1, network).run()
    moved = torch.cat([(a.detach() - b).flatten() for a, b in zip(network.parameters(), before)]).norm()
    assert 0 < float(moved) <= 0.2 + 1e-5  # two steps of a learning rate of 1


def test_any_callable_attaches_to_an_event():
    seen = []
    trainer_of([On(Events.EPOCH_COMPLETED, lambda engine: seen.append(engine.state.epoch))], 3).run()
    assert seen == [1, 2, 3]
    limit = TimeLimit(1)
    limit.start_time -= 10
    stopped = trainer_of([On(Events.ITERATION_COMPLETED, limit)], 5)
    stopped.run()
    assert stopped.state.iteration == 1


def test_terms_are_logged_as_running_means(caplog):
    loss = WeightedSum({"a": 1.0, "b": 2.0})
    assert float(loss({"a": torch.tensor(1.0), "b": torch.tensor(3.0)})) == 7
    engine = Engine(lambda e, b: loss({"a": torch.tensor(float(b)), "b": torch.tensor(0.0)}))
    LogTerms(loss, every=2, decay=0.5).attach(engine)
    with caplog.at_level("INFO"):
        engine.run([1.0, 3.0], max_epochs=1)
    assert "iteration 2  a 2.0000  b 0.0000" in caplog.text


def test_a_stopped_training_resumes(tmp_path):
    torch.manual_seed(0)
    whole = torch.nn.Linear(2, 1)
    parts = torch.nn.Linear(2, 1)
    parts.load_state_dict(whole.state_dict())
    trainer_of([ClipGradients(0.1)], 4, whole).run()
    for epochs in (2, 4):
        again = torch.nn.Linear(2, 1)
        again.load_state_dict(parts.state_dict())
        trainer = trainer_of([ClipGradients(0.1), Resume(str(tmp_path / "last.pt"), {"network": again})], epochs, again)
        trainer.run()
        assert trainer.state.epoch == epochs
    torch.testing.assert_close(again.weight, whole.weight)
    other = torch.nn.Linear(3, 1)
    with pytest.raises(ValueError, match=r"last\.pt does not fit this network \(Error"):
        trainer_of([Resume(str(tmp_path / "last.pt"), {"network": other})], 5, torch.nn.Linear(2, 1)).run()
    with pytest.raises(ValueError, match="contains no state of optimiser"):
        trainer_of([Resume(str(tmp_path / "last.pt"), {"optimiser": other})], 5).run()


def test_an_extended_training_follows_the_longer_schedule(tmp_path):
    rates = {}
    for steps, until in ((4, 3), (12, 12)):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
        schedule = WarmupCosineSchedule(optimizer, warmup_steps=1, t_total=steps)

        def step(engine, batch, optimizer=optimizer, schedule=schedule):
            rates[engine.state.iteration] = optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.step()

        engine = Engine(step)
        engine.state.device = "cpu"
        Resume(str(tmp_path / "last.pt"), {"optimizer": optimizer, "schedule": schedule}).attach(engine)
        engine.run(range(1), max_epochs=until)

    def cosine(step: int, total: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * (step - 1) / (total - 1)))

    assert rates[3] == pytest.approx(cosine(2, 4))
    for iteration in range(5, 13):  # the first step after the stop still has the rate that was set before it
        assert rates[iteration] == pytest.approx(cosine(iteration - 1, 12))


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    path.write_text("good")
    resume = Resume(str(path), {})

    def full(state, target):
        target.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="No space left on device"):
        resume.save(Engine(lambda e, b: None))
    assert path.read_text(encoding="utf-8") == "good"


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(InputError, match="'gpu'; choose auto, cpu, cuda or mps"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no usable device 'cuda'"):
            pick_device("cuda")


def test_processes_of_torchrun_share_the_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank, index in (("0", 0), ("1", 1), ("2", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert pick_device() == torch.device("cuda", index)
    monkeypatch.delenv("LOCAL_RANK")
    assert pick_device() == torch.device("cuda")


def test_input_errors_are_found_behind_wrappers():
    try:
        try:
            raise InputError("the reason")
        except InputError as error:
            raise RuntimeError("wrapped") from error
    except RuntimeError as error:
        assert str(input_error(error)) == "the reason"
    assert input_error(ValueError("other")) is None


def test_no_pairs_have_their_own_exit_code(caplog):
    evaluator = SimpleNamespace(state=SimpleNamespace(output={
        "pred": SimpleNamespace(matches=()), "metrics": {"dice": {"initial": {"mean": 0.5}}}, "files": ["a.json"]
    }))  # fmt: skip
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as end:
        outcome.finish(evaluator)
    assert end.value.code == outcome.ExitCode.NOTHING_FOUND == 3
    assert "mean Dice: initial 0.5" in caplog.text
