"""Weights on disk: half precision, complete or not at all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scripts.common.errors import InputError
from scripts.common.weights import export_weights, load_weights, read_checkpoint, start_from


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
    with pytest.raises(InputError, match=r"weights .*gone\.pt are missing"):
        read_checkpoint(tmp_path / "gone.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="is not a plain dict of tensors"):
        read_checkpoint(tmp_path / "list.pt")
    with pytest.raises(InputError, match="is not a plain dict of tensors"):
        load_weights(nn.Linear(2, 2), {"epoch": 3}, "x.pt", "the test")
