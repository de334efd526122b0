# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The table of an evaluation by MONAI's evaluator: a row per pair, and the summary over all pairs and processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ...common.tables import write_csv
from ...metrics.tables import flat_metrics
from .case import REGISTERED
from .summary import summarise, write_summary

logger = logging.getLogger(__name__)


class CohortTable:
    """Collects the metrics of every pair that an evaluator measures, over all processes under torchrun.

    The means are put into ``engine.state.metrics``, where MONAI's handlers for MLflow and TensorBoard find them.
    ``output_dir`` gets ``metrics.csv``, which has the rows only, ``summary.csv``, ``summary.json`` and ``report.html``;
    ``structures`` name the label values from 1; ``method`` is for the summary.
    """

    def __init__(self, output_dir: str, structures: Sequence[str], method: dict | None = None) -> None:
        self.output_dir, self.method = Path(output_dir), method
        self.names = {str(value): name for value, name in enumerate(structures, start=1)}
        self.rows: list[dict] = []
        self.began = self.started = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.start_pair)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        self.rows, self.started = [], time.perf_counter()

    def start_pair(self, engine: Engine) -> None:
        self.began = time.perf_counter()

    def add(self, engine: Engine) -> None:
        output, batch = engine.state.output, engine.state.batch
        pair = batch["pair"]
        name = batch.get("name") or f"{Path(pair.moving.path).name} to {Path(pair.fixed.path).name}"
        row = {"name": name, "status": REGISTERED, "moving": pair.moving.path, "fixed": pair.fixed.path}
        row |= {"seconds": round(time.perf_counter() - self.began, 3)}
        self.rows.append(row | flat_metrics(output["metrics"], self.names))
        shown = [f"{k} {self.rows[-1][k]:.4f}" for k in ("dice/mean/initial", "dice/mean/final") if k in self.rows[-1]]
        logger.info("%s: %s", name, "  ".join(shown))

    def finish(self, engine: Engine) -> None:
        shards = idist.all_gather(self.rows) if idist.get_world_size() > 1 else [self.rows]
        rows = [row for shard in shards for row in shard]
        if len(shards) > 1:
            rows.sort(key=lambda row: row["name"])
        facts = {"method": self.method, "seconds": round(time.perf_counter() - self.started, 1)}
        summary = summarise(rows, facts | {"processes": len(shards)})
        engine.state.metrics.update({key: value["mean"] for key, value in summary["metrics"].items()})
        if idist.get_rank():
            return
        write_csv(self.output_dir / "metrics.csv", rows)
        write_summary(self.output_dir, summary)
        for key, value in summary["metrics"].items():
            logger.info("%s: %.4f ± %.4f (%d)", key, value["mean"], value["sd"], value["n"])
