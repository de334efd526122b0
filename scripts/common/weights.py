# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Weights as tensor-only files: written completely or not at all, read with one clear sentence on failure."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from .errors import InputError


def export_weights(model: nn.Module, path: str | Path) -> None:
    """Saves the parameters of a model in half precision, complete or not at all; a tensor of several names once."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    state = model.state_dict()
    once = {(v.data_ptr(), v.shape): v.half() if v.is_floating_point() else v for v in state.values()}
    torch.save({k: once[v.data_ptr(), v.shape] for k, v in state.items()}, part)
    part.replace(path)


def read_checkpoint(path: str | Path) -> dict:
    """Reads a file that ``torch.save`` wrote, on the CPU and without running code from it.

    Raises:
        InputError: missing, truncated, or no checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"The weights {path} are missing; restore the file or give the path of another one.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        EOFError,
        OSError,
        BadZipFile,
        pickle.UnpicklingError,
        struct.error,
        KeyError,
        ValueError,
    ) as error:
        raise InputError(f"{path} is not a readable weights file; it may be truncated, so get it again.") from error
    if not isinstance(state, dict):
        raise InputError(f"{path} is not a plain dict of tensors; save the state dict of the model alone.")
    return state


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: str | Path, name: str) -> None:
    """Loads a state dict that must fit exactly.

    Args:
        model: where to load it.
        state: tensors by key.
        path: where they came from, for the message.
        name: of the model, for the message.

    Raises:
        InputError: entries that are no tensors, or another architecture; names the first keys that differ.
    """
    if not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} is not a plain dict of tensors; save the state dict of the model alone.")
    wanted = model.state_dict()
    wrong = sorted(set(wanted) ^ set(state)) + sorted(
        k for k in wanted if k in state and wanted[k].shape != state[k].shape
    )
    if wrong:
        raise InputError(f"{path} does not fit {name}: {len(wrong)} entries differ, first {', '.join(wrong[:3])}.")
    model.load_state_dict(state)


def start_from(model: nn.Module, path: str | None) -> nn.Module:
    """Loads the weights that a training begins with, e.g. those of an earlier one; None leaves them random.

    Raises:
        InputError: the file is missing, unreadable, or of another architecture.
    """
    if path is not None:
        load_weights(model, read_checkpoint(path), path, "the network of this training")
    return model
