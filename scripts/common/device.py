# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Choosing the device and the dtype to compute with."""

from __future__ import annotations

import os

import torch

from .errors import InputError


def pick_device(name: str = "auto") -> torch.device:
    """The device with a name such as "cpu", "cuda", "cuda:1" or "mps"; "auto" picks the fastest one.

    Under torchrun "auto" gives each process of a machine its own GPU while there are enough. Raises
    :class:`InputError` for a device that this machine does not have.
    """
    has_mps = torch.backends.mps.is_available()
    if name == "auto" and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"Unknown device {name!r}; choose auto, cpu, cuda or mps.") from error
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not {"cpu": True, "cuda": (device.index or 0) < gpus, "mps": has_mps}.get(device.type, False):
        raise InputError(f"This machine has no usable device {name!r}; choose auto or cpu.")
    return device


def autocast_dtype(name: str | None, device: torch.device) -> str | None:
    """The dtype for training, None for float32.

    ``name`` is "auto", "float32" (or None, which MONAI's runner does not pass on), "bfloat16" or "float16". "auto" is
    bfloat16 where the hardware supports it, and float32 elsewhere: on a processor without AVX-512 a convolution in
    bfloat16 takes 25 times as long.
    """
    if name not in ("auto", None, "float32", "bfloat16", "float16"):
        raise InputError(f"amp must be auto, float32, bfloat16 or float16, got {name!r}.")
    if name != "auto":
        return None if name == "float32" else name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    vector_units = torch.backends.cpu.get_cpu_capability()
    return "bfloat16" if device.type == "cpu" and vector_units.startswith(("AVX512", "AMX")) else None
