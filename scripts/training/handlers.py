# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Small handlers and inferers that MONAI and Ignite lack, or do not offer in a form that a config can use."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.engine.events import EventEnum
from monai.engines.utils import IterationEvents
from monai.handlers import TensorBoardStatsHandler
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from ..common.weights import export_weights

logger = logging.getLogger(__name__)


def has_tensorboard() -> bool:
    """Whether TensorBoard is installed; if not, one line is logged and no curves are written."""
    found = find_spec("tensorboard") is not None
    if not found:
        logger.warning("TensorBoard is not installed, so no curves are written; to get them: pip install tensorboard.")
    return found


def list_output(engine: Engine) -> None:
    """Puts the output of a step into a list, as decollation does; MONAI's handlers read the loss of its first item."""
    engine.state.output = [engine.state.output]


def tensorboard(log_dir: str, loss: Callable | None = None) -> TensorBoardStatsHandler:
    """Writes curves for TensorBoard and the command ``plot``.

    Args:
        log_dir: folder of the run.
        loss: of a trainer, whose loss and its ``terms``, if it has any, are written at every iteration; None for a
            validator, whose metrics are written at every epoch.
    """
    if loss is None:
        return TensorBoardStatsHandler(log_dir=log_dir, iteration_log=False)

    def terms(output: dict | list[dict]) -> dict[str, float]:
        output = output[0] if isinstance(output, list) else output
        return {"loss": output["loss"].item(), **getattr(loss, "terms", {})}

    return TensorBoardStatsHandler(log_dir=log_dir, epoch_log=False, output_transform=terms)


class On:
    """Attaches any callable that takes the engine to an event, such as Ignite's ``TimeLimit``."""

    def __init__(self, event: EventEnum | Events, handler: Callable[[Engine], None]) -> None:
        self.event, self.handler = event, handler

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(self.event, self.handler)


class ClipGradients:
    """Clips the norm of all gradients between the backward pass and the optimiser step."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        torch.nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_norm)


class LogTerms:
    """Logs a running mean of every loss term.

    Args:
        loss: a loss function with a dict ``terms`` of its last values.
        every: iterations between lines.
        decay: weight of the past in the running mean.
    """

    def __init__(self, loss, every: int = 50, decay: float = 0.95) -> None:
        self.loss, self.every, self.decay = loss, every, decay
        self.mean: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        for name, value in self.loss.terms.items():
            self.mean[name] = self.decay * self.mean.get(name, value) + (1 - self.decay) * value
        if engine.state.iteration % self.every == 0:
            terms = "  ".join(f"{name} {value:.4f}" for name, value in self.mean.items())
            logger.info("epoch %d iteration %d  %s", engine.state.epoch, engine.state.iteration, terms)


class KeepBest:
    """Saves the weights of a model in half precision when the key metric of the evaluator improves.

    MONAI's ``CheckpointSaver`` forgets the best value on resume; the state of this handler is kept by
    :class:`scripts.training.resume.Resume`. Higher metrics are better. Only one of several processes is the ``writer``.
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


class KeywordInferer:
    """Passes a batch, a dict, to the network as keyword arguments."""

    def __call__(self, inputs: dict[str, Any], network: nn.Module) -> Any:
        return network(**inputs)


class AutocastInferer(SimpleInferer):
    """Runs the network in a lower precision on any device; MONAI's engines autocast on CUDA only.

    ``amp`` is the dtype of autocast, e.g. "bfloat16", or None.
    """

    def __init__(self, amp: str | None = None) -> None:
        super().__init__()
        self.amp = getattr(torch, amp) if amp else None

    def __call__(self, inputs: Tensor, network: nn.Module, *args, **kwargs) -> Tensor:
        with torch.autocast(inputs.device.type, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None):
            return network(inputs, *args, **kwargs).float()
