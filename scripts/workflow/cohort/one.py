# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Registering one pair of a cohort; its folder appears when it is complete."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.utils import set_determinism

from ...common.errors import InputError
from ...data.pair import one_pair
from ..outcome import input_error, reason
from . import case
from .pairs import Entry
from .progress import case_log

logger = logging.getLogger(__name__)


class PairRunner:
    """Runs an evaluator on single pairs.

    Args:
        evaluator: registers and writes a pair; its postprocessing takes the folder from the batch's "output_dir".
        preprocessing: loads a pair.
        output_dir: folder of the cohort.
        seed: set before every pair, so that its result depends on no other pair.
    """

    def __init__(
        self, evaluator: SupervisedEvaluator, preprocessing: Callable[[Mapping], dict], output_dir: Path, seed: int
    ) -> None:
        self.evaluator, self.preprocessing, self.output_dir, self.seed = evaluator, preprocessing, output_dir, seed
        self.error: BaseException | None = None
        # Ignite cannot run again after an exception that was not handled.
        evaluator.add_event_handler(Events.EXCEPTION_RAISED, self._keep_error)

    def one(self, entry: Entry, key: str, worker: str) -> dict[str, Any]:
        """Registers one pair and returns its record; its folder appears when everything in it is written.

        A failure does not replace the complete result of an earlier run: it is noted next to that result. A full disk
        raises :class:`InputError`. ``key`` is that of the settings; results are prepared in the folder of ``worker``.
        """
        with self.full_disk_reported():
            stage = self._stage(entry, worker)
            began = time.perf_counter()
            record: dict[str, Any] = {"name": entry.name, "moving": entry.item["moving"], "fixed": entry.item["fixed"]}
            with case_log(stage / case.LOG):
                try:
                    record["inputs"] = case.describe_inputs(entry.item)
                    record["key"] = case.pair_key(record["inputs"], key)
                    record |= self._register({**entry.item, "output_dir": str(stage)}, stage)
                except Exception as error:  # of any type; the other pairs can still be registered
                    if case.is_disk_full(error):
                        raise
                    record |= {"status": case.FAILED, "error": reason(error)}
                    plain = input_error(error)
                    # An InputError that was raised needs no traceback; the one about memory was made by input_error.
                    logger.error("failed: %s", record["error"], exc_info=plain is None or plain.__traceback__ is None)
            record["seconds"] = round(time.perf_counter() - began, 3)
            return self._publish(entry, stage, record)

    def give_up(self, entry: Entry, worker: str, kills: int) -> dict[str, Any]:
        """Records a pair as failed because it has killed this many workers."""
        why = f"{kills} processes were killed while they registered it, perhaps because memory ran out"
        record = {"name": entry.name, "moving": entry.item["moving"], "fixed": entry.item["fixed"], "seconds": 0.0}
        return self._publish(entry, self._stage(entry, worker), record | {"status": case.FAILED, "error": why})

    def slices(self) -> dict[str, int]:
        """Slices that everything mode computed and reused so far."""
        return getattr(getattr(self.evaluator.inferer, "everything", None), "counts", {})

    @contextmanager
    def full_disk_reported(self) -> Iterator[None]:
        """Reports a full disk as one sentence."""
        try:
            yield
        except Exception as error:
            if not case.is_disk_full(error):
                raise
            raise InputError(
                f"The disk of {self.output_dir} is full; complete results are unchanged. Make room and run the same "
                "command again to continue."
            ) from error

    def _stage(self, entry: Entry, worker: str) -> Path:
        stage = self.output_dir / case.RUNNING / worker / case.NEW / case.flat(entry.name)
        case.remove(stage)
        stage.mkdir(parents=True)
        return stage

    def _publish(self, entry: Entry, stage: Path, record: dict[str, Any]) -> dict[str, Any]:
        target = self.output_dir / entry.name
        record["files"] = {p.name: p.stat().st_size for p in sorted(stage.iterdir())}
        if record["status"] == case.FAILED and case.is_good(target):
            case.keep_failure(stage, target, record)
        else:
            case.write_record(stage / case.RECORD, record)
            case.publish(stage, target)
        case.survived(self.output_dir, entry.name)
        return record

    def _register(self, item: dict[str, Any], stage: Path) -> dict[str, Any]:
        """Runs the evaluator on one pair and returns what its record says."""
        set_determinism(seed=self.seed)
        self.error = None
        self.evaluator.data_loader = [one_pair([self.preprocessing(item)])]
        try:
            self.evaluator.state.epoch_length = 1
            self.evaluator.run()
            if self.error is not None:
                raise self.error
        finally:
            # The images of a pair must not outlive it.
            state = self.evaluator.state
            self.evaluator.data_loader = state.dataloader = state.batch = state.output = self.error = None
        written = json.loads((stage / "correspondence.json").read_text(encoding="utf-8"))
        found = written["pairs"] or written["metrics"].get("field")
        status = case.REGISTERED if found else case.NOTHING_FOUND
        kept = {key: written[key] for key in ("metrics", "warnings", "doubts", "trusted")}
        return {"status": status, "matches": len(written["pairs"]), **kept}

    def _keep_error(self, engine: Engine, error: BaseException) -> None:
        self.error = error
