# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Keeping the best weights of a training by a validation metric."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from ignite.engine import Engine, Events
from torch import nn

from ..common.weights import export_weights

logger = logging.getLogger(__name__)


class KeepBest:
    """Saves the weights of a model in half precision when the key metric of the evaluator improves.

    MONAI's ``CheckpointSaver`` forgets the best value on resume; this handler keeps its state in
    :class:`scripts.training.resume.Resume`. Of a metric, higher is better; of many processes, one is the ``writer``.
    """

    def __init__(self, model: nn.Module, path: str, metric: str, writer: bool = True) -> None:
        self.model, self.path, self.metric, self.writer = model, Path(path), metric, writer
        self.best = self.last = -math.inf

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.last = float(engine.state.metrics[self.metric])
        if self.last > self.best:
            if self.writer:
                export_weights(self.model, self.path)
            self.best = self.last
            logger.info("best %s so far, %.4f: saved %s", self.metric, self.best, self.path)

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best, "last": self.last}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best, self.last = float(state["best"]), float(state["last"])
