# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Writing and reading weights as tensor-only half-precision files."""

from __future__ import annotations

from pathlib import Path

import torch
from segment_anything.modeling import Sam
from torch import nn

from scripts.sam.build import load_state


def export_weights(model: nn.Module, path: str | Path) -> None:
    """Saves the parameters of a model in half precision, complete or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}, part)
    part.replace(path)


def start_from(sam: Sam, path: str | None) -> Sam:
    """Loads the weights that a training begins with, e.g. those of an earlier one; None leaves them random.

    Raises:
        InputError: the file is missing, unreadable, or of another architecture.
    """
    if path is not None:
        load_state(sam, Path(path), "compact")
    return sam
