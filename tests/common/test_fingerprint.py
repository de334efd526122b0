"""Hashes of settings: equal for equal settings, different for any change of a result."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from monai.transforms import Compose

from scripts.common.fingerprint import file_sha256, fingerprint, model_hash, settings, tensor_hash
from scripts.data.pair import LoadPair
from scripts.roi.dense import DenseSettings
from scripts.workflow.outputs import SaveRegistration


def test_settings_name_class_and_values():
    described = settings(Compose([LoadPair(window="ct")]))
    assert described[0]["class"] == "scripts.data.pair.LoadPair"
    assert described[0]["window"] == "ct" and described[0]["fill_nan"] is None
    assert fingerprint(LoadPair()) == fingerprint(LoadPair()) != fingerprint(LoadPair(max_size=128))
    assert fingerprint(DenseSettings()) != fingerprint(DenseSettings(smoothness=3.0))
    assert fingerprint(SaveRegistration("a")) == fingerprint(SaveRegistration("b"))
    assert fingerprint(SaveRegistration("a")) != fingerprint(SaveRegistration("a", overview=False))


def test_arrays_count_by_content_shape_and_type():
    a = torch.arange(6.0)
    different = [a, a.reshape(2, 3), a.double(), a + 1, a.to(torch.bfloat16), torch.tensor(1.0)]
    assert len({tensor_hash(t) for t in different}) == len(different)
    assert tensor_hash(a[::2]) == tensor_hash(torch.tensor([0.0, 2.0, 4.0]))
    assert settings(np.float32(2)) == settings(np.array(2, np.float32)) != settings(np.float64(2))


def test_models_count_by_weights():
    torch.manual_seed(0)
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert model_hash(a) != model_hash(b)
    b.load_state_dict(a.state_dict())
    assert model_hash(a) == model_hash(b) == settings(b)


def test_a_fingerprint_is_the_hash_of_sorted_json():
    """It contains nothing of the process, such as the order of a dict or the address of an object."""
    text = '[{"a": {"\\u00fc": 2.5}, "b": 1}, [null, true]]'
    assert fingerprint({"b": 1, "a": {"ü": 2.5}}, (None, True)) == hashlib.sha256(text.encode()).hexdigest()


def test_files_count_by_content(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 5_000_000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"x" * 5_000_000).hexdigest()
