"""SAT against the recorded facts of the original: every key, every shape, and the logits of fixed weights."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
import torch

from scripts.anatomy.sat.network import SAT, clean_keys


@pytest.fixture
def facts(real_data):
    folder = real_data.parent / "reference" / "sat"
    if not folder.is_dir():
        pytest.skip(f"no recorded facts of SAT at {folder}")
    return folder


def by_rule(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The tensors that the reference was computed with: a generator seeded by each key."""
    state = {}
    for key, shape in shapes.items():
        z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            z = z / np.sqrt(np.prod(shape[1:])).astype(np.float32)
        else:
            z = 1 + 0.1 * z if key.endswith("weight") else 0.1 * z
        state[key] = torch.from_numpy(z.astype(np.float32))
    return state


@pytest.mark.parametrize("size", ["nano", "pro"])
def test_every_key_and_shape_of_the_release(facts, size):
    shapes = json.loads((facts / f"sat_{size}_state_dict.json").read_text(encoding="utf-8"))
    released = {f"module.{key}": torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with torch.device("meta"):
        ours = SAT(size).state_dict()
    theirs = clean_keys(released)
    assert set(ours) == set(theirs)
    assert {k: tuple(v.shape) for k, v in ours.items()} == {k: tuple(v.shape) for k, v in theirs.items()}


def test_logits_of_the_original(facts):
    shapes = json.loads((facts / "sat_nano_state_dict.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        network = SAT("nano", query_batch=2)
    network.load_state_dict(clean_keys(by_rule(shapes)), assign=True)
    with np.load(facts / "sat_nano_reference.npz") as reference, torch.no_grad():
        image = torch.from_numpy(reference["image"]).expand(-1, 3, -1, -1, -1)
        logits = network.eval()(image, torch.from_numpy(reference["queries"]))
        assert np.abs(logits.numpy() - reference["logits"]).max() < 1e-3
