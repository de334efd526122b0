# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Hashes of whatever determines a result: settings, weights, tensors, files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from torch import Tensor, nn

FEW = 64  # values of an array that are listed; a larger one is hashed
SILENT = ("output_dir", "progress", "method")  # attributes that do not affect results


def fingerprint(*values: Any) -> str:
    """SHA-256, hexadecimal, of the settings of values. Equal settings give equal hashes in every process."""
    text = json.dumps([settings(v) for v in values], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def settings(value: Any) -> Any:
    """The settings of a value, ready for JSON.

    An object becomes its class and its public attributes, a model or an array the hash of its content. Attributes in
    ``SILENT`` and those that begin with an underscore are left out.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (Path, torch.device)):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): settings(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [settings(v) for v in value]
    if isinstance(value, Tensor):
        return tensor_hash(value)
    if isinstance(value, (np.ndarray, np.generic)) and value.size <= FEW:
        return f"{value.dtype} {value.tolist()}"
    if isinstance(value, np.ndarray):
        return tensor_hash(torch.from_numpy(np.require(value, requirements="W")))
    if isinstance(value, nn.Module):
        return model_hash(value)
    if isinstance(value, Compose):
        return [settings(t) for t in value.transforms]
    kind = type(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    public = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_") and k not in SILENT}
    return {"class": f"{kind.__module__}.{kind.__qualname__}"} | {k: settings(v) for k, v in public.items()}


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal, read in pieces."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of the shape, type and values of a tensor on any device."""
    digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(_bytes(tensor))
    return digest.hexdigest()


def model_hash(model: nn.Module) -> str:
    """SHA-256 of the class and the state dict of a model."""
    kind = type(model)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = torch.as_tensor(tensor.detach()).cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())
