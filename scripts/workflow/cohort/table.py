# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The table of a cohort: one row a pair, the mean over pairs at the end, as CSV and JSON and in the log."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
from ignite.engine import Engine, Events

from ...common.files import whole_file
from ...data.tables import write_csv
from ...metrics.tables import flat_metrics, summarise_rows

logger = logging.getLogger(__name__)


class CohortTable:
    """Collects the metrics of every pair that an evaluator measures, over all processes under torchrun.

    Args:
        output_dir: folder of ``metrics.csv`` and ``summary.json``.
        structures: name of each label value, from 1.
    """

    def __init__(self, output_dir: str, structures: Sequence[str]) -> None:
        self.output_dir, self.structures = Path(output_dir), list(structures)
        self.rows: list[dict] = []
        self.began = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        self.began = time.perf_counter()

    def add(self, engine: Engine) -> None:
        output, pair = engine.state.output, engine.state.batch["pair"]
        name = engine.state.batch.get("name") or f"{Path(pair.moving.path).name} to {Path(pair.fixed.path).name}"
        row = {"name": name, "seconds": round(time.perf_counter() - self.began, 3)}
        row |= flat_metrics(output["metrics"], self.structures)
        self.rows.append(row)
        shown = "  ".join(
            f"{k} {row[k]:.4f}" for k in ("dice/mean/initial", "dice/mean/final") if row.get(k) is not None
        )
        logger.info("%s: %s", name, shown)

    def finish(self, engine: Engine) -> None:
        if dist.is_available() and dist.is_initialized():
            shards: list = [None] * dist.get_world_size()
            dist.all_gather_object(shards, self.rows)
            self.rows = sorted((row for shard in shards for row in shard), key=lambda row: row["name"])
            if dist.get_rank():
                return
        write_csv(self.output_dir / "metrics.csv", self.rows)
        summary = {"pairs": len(self.rows)} | summarise_rows(self.rows, ("name",))
        for column, spread in list(summary.items())[1:]:
            logger.info("%s: %.4f ± %.4f (%d)", column, spread["mean"], spread["sd"], spread["n"])
        with whole_file(self.output_dir / "summary.json") as part:
            part.write_text(json.dumps(summary, indent=2), encoding="utf-8")
