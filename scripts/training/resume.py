# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Stop and resume: the whole state of a training in one file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import LRScheduler

from ..common.errors import InputError
from ..common.weights import read_checkpoint, save_tensors

# The progress of a learning rate schedule; its length and rates come from the current config, so that a training can
# be extended.
PROGRESS = ("last_epoch", "_step_count", "_last_lr")

logger = logging.getLogger(__name__)


class Resume:
    """Saves the state of a training, and restores it at the start if the file exists.

    MONAI's ``CheckpointSaver`` cannot save the trainer to which a config attaches it, and overwrites the old file in
    place; this handler leaves the last complete file after a full disk or a kill.

    Args:
        path: the file.
        objects: objects with ``state_dict`` and ``load_state_dict``, by name.
        every: epochs between saves; the end of the run always saves, also when a time limit ends it.
        writer: whether this process writes the file; only one of several does, and all read it.
    """

    def __init__(self, path: str, objects: dict[str, Any], every: int = 1, writer: bool = True) -> None:
        self.path, self.objects, self.every, self.writer = Path(path), objects, every, writer

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self.save)
        engine.add_event_handler(Events.COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        """Saves every object and the engine; if the file cannot be written, the previous one is unchanged."""
        if self.writer:
            states = {name: obj.state_dict() for name, obj in {**self.objects, "engine": engine}.items()}
            save_tensors(states, self.path)

    def load(self, engine: Engine) -> None:
        """Restores every object; :class:`InputError` if the file is damaged or belongs to another training."""
        if not self.path.exists():
            return
        states = read_checkpoint(self.path, engine.state.device)
        missing = {*self.objects, "engine"} - set(states)
        if missing:
            raise InputError(
                f"{self.path} contains no state of {', '.join(sorted(missing))}, so another training saved it; give "
                "another output_dir."
            )
        max_epochs = engine.state.max_epochs
        for name, obj in {**self.objects, "engine": engine}.items():
            state = states[name]
            try:
                if isinstance(obj, LRScheduler):
                    state = obj.state_dict() | {key: state[key] for key in PROGRESS}
                obj.load_state_dict(state)
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise InputError(
                    f"{self.path} does not fit this {name} ({reason}); give another output_dir."
                ) from error
        engine.state.max_epochs = max_epochs
        logger.info("resumed from %s at epoch %d", self.path, engine.state.epoch)
