# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The dtype of a training is one that the hardware supports."""

import pytest
import torch

from scripts.common.device import autocast_dtype
from scripts.common.errors import InputError


@pytest.mark.parametrize(("units", "dtype"), [("AVX512", "bfloat16"), ("AVX2", None), ("DEFAULT", None)])
def test_auto_on_a_cpu(monkeypatch, units, dtype):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: units)
    assert autocast_dtype("auto", torch.device("cpu")) == dtype


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", None)])
def test_a_named_dtype_is_used(name, dtype):
    assert autocast_dtype(name, torch.device("cpu")) == dtype


def test_an_unknown_dtype_is_refused():
    with pytest.raises(InputError, match="amp must be auto, float32, bfloat16 or float16, got 'half'"):
        autocast_dtype("half", torch.device("cpu"))


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, None)])
def test_auto_on_a_gpu_does_not_emulate(monkeypatch, native, dtype):
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert autocast_dtype("auto", torch.device("cuda")) == dtype
