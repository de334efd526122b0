# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Reading the weights of a registration network."""

from __future__ import annotations

import logging
from pathlib import Path

from ..common.errors import InputError
from ..common.weights import MODELS, load_weights, read_checkpoint
from .pair_network import PairNetwork

BUNDLED = MODELS / "model.pt"
FITTING = "this registration network (--strides, --attention_window and --structures must be those of its training)"


logger = logging.getLogger(__name__)


def is_bundled(path: str | Path | None) -> bool:
    """Whether these are the weights shipped with the bundle."""
    return path is not None and Path(path).resolve() == BUNDLED


def load_network(network: PairNetwork, path: str | Path | None, start: bool = False) -> PairNetwork:
    """Loads weights, a ``state_dict`` alone or under the key "model", into a network; None leaves it unchanged.

    Whether features are warped by the exponential follows the file (:meth:`PairNetwork.adapt_to`).
    With ``start``, at the beginning of a training, parts that the file lacks keep their initial weights.
    """
    if path is None:
        return network
    if not Path(path).is_file():
        raise InputError(f"The weights of the registration network are not at {path}; train them or give --checkpoint.")
    state = read_checkpoint(path)
    state = state.get("model", state)
    network.adapt_to(state)
    if start:
        added = {key: value for key, value in network.state_dict().items() if key not in state}
        state = {**state, **added}
        if added:
            logger.info("%d entries of the network are not in %s and keep their initial values.", len(added), path)
    load_weights(network, state, path, FITTING)
    return network
