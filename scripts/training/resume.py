# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Stop and resume: the whole state of a training in one file that is replaced only by a complete one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import LRScheduler

# What a schedule has done; its length and rates are those of the present config, so that a training can be prolonged.
PROGRESS = ("last_epoch", "_step_count", "_last_lr")

logger = logging.getLogger(__name__)


class Resume:
    """Saves everything a training needs to go on, and goes on from it when the file is there.

    MONAI's ``CheckpointSaver`` cannot hold the trainer it is attached to when both stand in one config, and writes
    over the old file; this handler adds the engine it is attached to, and a full disk or a kill leaves the last good
    file.

    Args:
        path: the file.
        objects: what has ``state_dict`` and ``load_state_dict``, by name.
        every: epochs between saves; the end of the run, also by a time limit, always saves.
        writer: whether this process writes the file; one of many does, all read it.
    """

    def __init__(self, path: str, objects: dict[str, Any], every: int = 1, writer: bool = True) -> None:
        self.path, self.objects, self.every, self.writer = Path(path), objects, every, writer

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self.save)
        engine.add_event_handler(Events.COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        if not self.writer:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        torch.save({name: obj.state_dict() for name, obj in {**self.objects, "engine": engine}.items()}, part)
        part.replace(self.path)

    def load(self, engine: Engine) -> None:
        """Restores every object.

        Raises:
            ValueError: the file belongs to another network or configuration.
        """
        if not self.path.exists():
            return
        states = torch.load(self.path, map_location=engine.state.device, weights_only=True)
        missing = set(self.objects) - set(states)
        if missing:
            raise ValueError(
                f"{self.path} has no state of {', '.join(sorted(missing))}: it was saved by another training."
            )
        for name, obj in self.objects.items():
            try:
                obj.load_state_dict(_wanted(obj, states[name]))
            except (RuntimeError, ValueError, KeyError) as error:
                reason = str(error).splitlines()[0]
                raise ValueError(
                    f"{self.path} does not fit this {name} ({reason}); give another output_dir."
                ) from error
        max_epochs = engine.state.max_epochs
        engine.load_state_dict(states["engine"])
        engine.state.max_epochs = max_epochs
        logger.info("resumed from %s at epoch %d", self.path, engine.state.epoch)


def _wanted(obj: Any, state: dict[str, Any]) -> dict[str, Any]:
    """The saved state, but of a learning rate schedule its progress only."""
    if not isinstance(obj, LRScheduler):
        return state
    return obj.state_dict() | {key: state[key] for key in PROGRESS}
