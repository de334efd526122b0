"""Weights on disk: half precision, complete or not at all."""

from __future__ import annotations

import hashlib
import shutil

import pytest
import torch
from torch import nn

from scripts.common import weights as module
from scripts.common.errors import InputError
from scripts.common.weights import CHECKSUMS, MODELS, export_weights, load_weights, read_checkpoint, start_from


def test_a_tensor_of_two_names_is_saved_once(tmp_path):
    layer = nn.Linear(256, 256)
    twice = nn.ModuleDict({"a": layer, "b": layer, "norm": nn.BatchNorm1d(3)})
    export_weights(twice, tmp_path / "deep" / "w.pt")
    assert (tmp_path / "deep" / "w.pt").stat().st_size < 256 * 256 * 2 * 1.1
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["w.pt"]
    state = read_checkpoint(tmp_path / "deep" / "w.pt")
    assert state["a.weight"].dtype == torch.float16 and state["norm.num_batches_tracked"].dtype == torch.int64
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.zero_()
    load_weights(twice, state, "w.pt", "the test")
    torch.testing.assert_close(layer.weight, before, atol=1e-3, rtol=1e-3)


def test_an_interrupted_save_keeps_the_old_file(tmp_path, monkeypatch):
    export_weights(nn.Linear(2, 2), tmp_path / "w.pt")
    before = (tmp_path / "w.pt").read_bytes()

    def half(state, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        export_weights(nn.Linear(2, 2), tmp_path / "w.pt")
    assert (tmp_path / "w.pt").read_bytes() == before


def test_a_training_starts_from_weights(tmp_path):
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    export_weights(first, tmp_path / "w.pt")
    assert start_from(second, None) is second and not torch.equal(first.weight, second.weight)
    torch.testing.assert_close(start_from(second, str(tmp_path / "w.pt")).weight, first.weight, atol=1e-3, rtol=1e-3)
    with pytest.raises(InputError, match="does not fit the network of this training: 1 entries differ, first bias"):
        start_from(nn.Linear(2, 2, bias=False), str(tmp_path / "w.pt"))


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(InputError, match=r"gone\.pt does not exist"):
        read_checkpoint(tmp_path / "gone.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="is not a dict of tensors"):
        read_checkpoint(tmp_path / "list.pt")
    with pytest.raises(InputError, match="is not a dict of tensors"):
        load_weights(nn.Linear(2, 2), {"epoch": 3}, "x.pt", "the test")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: {**s, "weight": s["weight"] * float("nan")}, "contains values in weight that are not finite"),
        (lambda s: {**s, "bias": s["bias"] / 0}, "contains values in bias that are not finite"),
        (lambda s: {**s, "weight": s["weight"].to_sparse()}, "weight in a form other than a dense real tensor"),
        (lambda s: {**s, "weight": torch.zeros(1).expand(100_000, 100_000)}, "does not fit the test: 1 entries differ"),
        (lambda s: {**s, "weight": s["weight"].to(torch.complex64)}, "weight in a form other than a dense real"),
        (lambda s: dict(enumerate(s.values())), "is not a dict of tensors by name"),
        (lambda s: {**s, 3: s["bias"]}, "is not a dict of tensors by name"),
    ],
)
def test_state_dicts_that_cannot_be_used(tmp_path, spoil, message):
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    torch.save(spoil(layer.state_dict()), tmp_path / "w.pt")
    with pytest.raises(InputError, match=message):
        load_weights(layer, read_checkpoint(tmp_path / "w.pt"), tmp_path / "w.pt", "the test")
    assert torch.equal(layer.weight, before)


def test_released_weights_have_checksums_and_a_flipped_bit_is_refused(tmp_path, monkeypatch):
    listed = dict(reversed(line.split()) for line in CHECKSUMS.read_text(encoding="utf-8").splitlines())
    assert set(listed) == {path.name for path in MODELS.glob("*.pt")}
    for name, expected in listed.items():
        assert hashlib.sha256((MODELS / name).read_bytes()).hexdigest() == expected
    models = tmp_path / "models"
    models.mkdir()
    monkeypatch.setattr(module, "MODELS", models)
    monkeypatch.setattr(module, "CHECKSUMS", models / "SHA256SUMS")
    shutil.copy(CHECKSUMS, models)
    damaged = bytearray((MODELS / "model.pt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (models / "model.pt").write_bytes(damaged)
    with pytest.raises(InputError, match=r"differs from the released file .* restore it"):
        read_checkpoint(models / "model.pt")
    for own in (models / "own.pt", tmp_path / "model.pt"):  # the user's own weights, whatever they are called
        export_weights(nn.Linear(2, 2), own)
        assert set(read_checkpoint(own)) == {"weight", "bias"}


def test_a_full_disk_is_one_sentence_and_keeps_the_old_file(tmp_path, monkeypatch):
    export_weights(nn.Linear(2, 2), tmp_path / "w.pt")
    before = (tmp_path / "w.pt").read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"Writing .*w\.pt failed .* unchanged"):
        export_weights(nn.Linear(2, 2), tmp_path / "w.pt")
    assert (tmp_path / "w.pt").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
