# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Reading the weights of a registration network."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from scripts.errors import InputError
from scripts.network.model import CrossFusionNet


def load_network(network: CrossFusionNet, path: str | Path | None) -> CrossFusionNet:
    """Loads weights into a network; None leaves it as it is.

    Args:
        network: of the right architecture.
        path: a file with a ``state_dict``, by itself or under the key "model".

    Raises:
        InputError: the file is missing, unreadable, or of another network.
    """
    if path is None:
        return network
    if not Path(path).is_file():
        raise InputError(f"The weights of the registration network are not at {path}; train them or give --checkpoint.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state.get("model", state))
    except (RuntimeError, AttributeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} holds no weights of this registration network ({reason}).") from error
    return network
