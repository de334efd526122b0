# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Weights as tensor-only files: written atomically, and refused with one sentence if they cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .bundle import MODELS
from .errors import InputError
from .files import existing, whole_file
from .fingerprint import file_sha256

CHECKSUMS = MODELS / "SHA256SUMS"  # as ``sha256sum`` writes it


def save_tensors(content: Any, path: str | Path) -> None:
    """Saves with ``torch.save``; the file is replaced only by a complete one."""
    try:
        with whole_file(path) as part:
            torch.save(content, part)
    except RuntimeError as error:  # how torch reports a full disk
        reason = str(error).splitlines()[0]
        raise InputError(f"Writing {path} failed ({reason}); an earlier file there is unchanged.") from error


def export_weights(model: nn.Module, path: str | Path) -> None:
    """Saves the parameters of a model in half precision; a tensor with several names is stored once."""
    state = model.state_dict()
    once = {(v.data_ptr(), v.shape): v.half() if v.is_floating_point() else v for v in state.values()}
    save_tensors({k: once[v.data_ptr(), v.shape] for k, v in state.items()}, path)


def check_bundled(path: Path) -> None:
    """Compares a file in ``models/`` with its checksum; :class:`InputError` if it has changed since it was released.

    Files elsewhere, or without a checksum, are the user's own.
    """
    path = path.resolve()
    if not path.is_relative_to(MODELS) or not CHECKSUMS.exists():
        return
    lines = (line.split(maxsplit=1) for line in CHECKSUMS.read_text(encoding="utf-8").splitlines())
    expected = {name.strip(): sha for sha, name in lines}.get(path.relative_to(MODELS).as_posix())
    if expected is None:
        return
    found = file_sha256(path)
    if found != expected:
        raise InputError(
            f"{path} differs from the released file (SHA-256 {found[:12]}..., expected {expected[:12]}...); restore "
            f"it. If these are your own weights, remove its line from {CHECKSUMS.name} or keep them in another folder."
        )


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """Reads a file that ``torch.save`` wrote, without running code from it.

    The released files in ``models/`` are compared with their checksums. Raises :class:`InputError` for a file that is
    missing, damaged, or not a checkpoint.
    """
    path = existing(path, "a file of weights")
    check_bundled(path)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the unpickler raises nearly anything
        raise InputError(f"{path} is not a readable weights file; it may be truncated. Get it again.") from error
    if not isinstance(state, dict):
        raise InputError(f"{path} is not a dict of tensors; save the state dict of the model alone.")
    return state


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: str | Path, name: str) -> None:
    """Loads a state dict that must fit exactly.

    Messages quote ``path`` and ``name`` (of the model). Raises :class:`InputError` for entries that are not dense
    tensors, another architecture (the message names the first keys that differ), or values that are not finite.
    """
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError(f"{path} is not a dict of tensors by name; save the state dict of the model alone.")
    wanted = model.state_dict()
    wrong = sorted(wanted.keys() ^ state) + sorted(
        k for k in wanted.keys() & state if wanted[k].shape != state[k].shape
    )
    if wrong:
        raise InputError(f"{path} does not fit {name}: {len(wrong)} entries differ, first {', '.join(wrong[:3])}.")
    for key, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_complex():
            raise InputError(f"{path} stores {key} in a form other than a dense real tensor; save it as one.")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{path} contains values in {key} that are not finite; the training that made it failed.")
    model.load_state_dict(state)


def start_from(model: nn.Module, path: str | None) -> nn.Module:
    """Loads the weights that a training starts from, e.g. those of an earlier one; None keeps them random."""
    if path is not None:
        load_weights(model, read_checkpoint(path), path, "the network of this training")
    return model
