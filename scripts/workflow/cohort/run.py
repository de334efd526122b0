# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Registering a list of pairs: resumes where it stopped, survives failing pairs, and can share the work."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.engines import SupervisedEvaluator

from ...common.errors import InputError
from ...common.fingerprint import file_sha256, fingerprint, settings
from ..guard import check_output_dir, sole_writer
from ..outcome import ExitCode
from . import case
from .one import PairRunner
from .pairs import Entry
from .progress import work
from .ranks import by_fixed, shard_of, share
from .summary import row_of, summarise, summary_lines, write_summary
from .worker import Worker

logger = logging.getLogger(__name__)

MOST_KILLS = 3  # workers that may die with a pair before it counts as failed


class Cohort:
    """Registers one pair after another and keeps the results of each in a separate folder.

    Args:
        entries: the pairs.
        output_dir: gets a folder per pair, summary.csv, summary.json and report.html.
        evaluator: registers and writes a pair; its postprocessing takes the folder from the batch's "output_dir".
        preprocessing: loads a pair.
        postprocessing: of the evaluator, for its settings.
        parameters: the record of the settings that the evaluator writes.
        method: "name" and "reason", for the summary.
        seed: set before every pair, so that its result depends on no other pair.
        shard: "i/n" registers one of n parts of the list while other workers register theirs, and then pairs that they
            have not begun; see :func:`scripts.workflow.cohort.ranks.shard_of`.
        scheduler: must be None: :func:`scripts.workflow.cohort.scheduler.run_on_scheduler` reads this option.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        output_dir: str | Path,
        evaluator: SupervisedEvaluator,
        preprocessing: Callable[[Mapping], dict],
        postprocessing: Callable,
        parameters: Mapping[str, Any],
        method: Mapping[str, str | None] | None = None,
        seed: int = 0,
        shard: str | None = None,
        scheduler: str | None = None,
    ) -> None:
        if scheduler is not None:
            raise InputError("--scheduler is an option of `python -m scripts register`, not of MONAI's command.")
        self.entries, self.output_dir, self.shard = list(entries), Path(output_dir), shard_of(shard)
        self.method, self.parameters = dict(method or {}), dict(parameters)
        self.described = (preprocessing, evaluator.inferer, evaluator.network, postprocessing, self.parameters, seed)
        self.runner = PairRunner(evaluator, preprocessing, self.output_dir, seed)

    def run(self) -> dict[str, Any]:
        """Registers every pair that is not done, and returns the summary.

        Raises:
            InputError: the output folder is in use, cannot be written, or the disk is full.
        """
        check_output_dir(self.output_dir)
        with self.runner.full_disk_reported():
            return self._run_shard(*self.shard) if self.shard else self._run_alone()

    def settings_key(self) -> str:
        """Hash of everything that decides a result, except the images."""
        files = {k: file_sha256(v) for k, v in self.parameters.items() if isinstance(v, str) and Path(v).is_file()}
        return fingerprint(*(settings(value) for value in self.described), files)

    def plan(self, key: str) -> list[Entry]:
        """The pairs that are not done, those of one fixed image side by side; those that killed a process come last."""
        for entry in self.entries:
            case.check_free(self.output_dir / entry.name)
        left = self._killed_last(by_fixed([e for e in self.entries if not self.is_done(e, key)]))
        if len(left) < len(self.entries):
            logger.info("%d of %d pairs are done already", len(self.entries) - len(left), len(self.entries))
        return left

    def is_done(self, entry: Entry, key: str) -> bool:
        """Whether the result of a pair is complete and comes from the same files with the same settings."""
        folder = self.output_dir / entry.name
        done = case.is_done(folder, entry.item, key)
        if done:
            case.forget_failure(folder)
        return done

    def finish(self, began: float, done: int, **facts: Any) -> dict[str, Any]:
        """Writes and returns the summary of all pairs, with further ``facts``.

        ``began`` is ``time.perf_counter()`` at the start of the run, ``done`` the number of pairs done before it.
        """
        records = (case.last_record(self.output_dir / e.name) for e in self.entries)
        facts = {"method": self.method, "done_before": done, "seconds": round(time.perf_counter() - began, 1), **facts}
        summary = summarise((row_of(r) for r in records if r is not None), facts)
        write_summary(self.output_dir, summary)
        return summary

    @contextmanager
    def only_writer(self) -> Iterator[Worker]:
        """Locks the folder of the cohort and clears what killed runs left."""
        with sole_writer(self.output_dir), Worker(self.output_dir) as worker:
            worker.recover(alone=True)
            yield worker

    def _run_alone(self) -> dict[str, Any]:
        """All pairs in this process, while no other process writes into the folder."""
        began = time.perf_counter()
        with self.only_writer() as worker:
            key = self.settings_key()
            todo = self.plan(key)
            work(todo, "pairs", lambda entry: self.runner.one(entry, key, worker.name))
            return self.finish(began, len(self.entries) - len(todo), slices=self.runner.slices())

    def _run_shard(self, number: int, size: int) -> dict[str, Any]:
        """One part of the pairs, then those that other workers have not begun, or died with."""
        began, started = time.perf_counter(), time.time()
        ordered = by_fixed(self.entries)
        parts = [share(ordered, (number + k) % size, size) for k in range(size)]
        with Worker(self.output_dir, shared=True) as worker:
            worker.recover(alone=False)
            key = self.settings_key()
            pending = self._killed_last(parts[0])
            pending += [entry for part in parts[1:] for entry in part]
            title, mine = f"pairs of shard {number} of {size}", 0
            while pending:
                busy: list[Entry] = []

                def register(entry: Entry, busy: list[Entry] = busy) -> dict[str, Any] | None:
                    nonlocal mine
                    record = self._claim(worker, entry, key, started, busy)
                    mine += record is not None
                    return record

                work(pending, title, register)
                pending, title = busy, "waiting for other workers"
                if pending:
                    time.sleep(worker.lease_s / 20)
            return self.finish(began, len(self.entries) - mine, shard=f"{number}/{size}")

    def _claim(
        self, worker: Worker, entry: Entry, key: str, started: float, busy: list[Entry]
    ) -> dict[str, Any] | None:
        """Registers a pair, unless it is done or has failed meanwhile; adds it to ``busy`` if another worker has it."""
        folder = self.output_dir / entry.name
        if self.is_done(entry, key) or case.failed_since(folder, started):
            return None
        case.check_free(folder)
        with worker.claimed(entry.name) as kills:
            if kills is None:
                busy.append(entry)
                return None
            if self.is_done(entry, key):
                return None
            if kills:
                worker.recover(alone=False)
            if kills >= MOST_KILLS:
                return self.runner.give_up(entry, worker.name, kills)
            return self.runner.one(entry, key, worker.name)

    def _killed_last(self, entries: list[Entry]) -> list[Entry]:
        killed = {e.name for e in entries if case.was_killed(self.output_dir, e.name)}
        for name in killed:
            logger.warning(
                "A process was killed while it registered %s, perhaps because memory ran out; this pair is tried last.",
                name,
            )
        return sorted(entries, key=lambda e: e.name in killed)


def finish_cohort(summary: Mapping[str, Any]) -> None:
    """Logs the result of a cohort; exits with ``SOME_FAILED``, ``NOTHING_FOUND`` or ``NOTHING_TRUSTED``."""
    counts = [f"{summary[status]} {word}" for status, word in (
        (case.REGISTERED, "registered"), (case.NOTHING_FOUND, "without matched regions"), (case.FAILED, "failed")
    )]  # fmt: skip
    logger.info("%d pairs: %s; see summary.csv", len(summary["pairs"]), ", ".join(counts))
    if summary["doubted"]:
        logger.warning("%d pairs have doubts; read them in summary.csv or report.html.", summary["doubted"])
    for line in summary_lines(summary):
        if " mean " in line:
            logger.info(line)
    if summary[case.FAILED]:
        sys.exit(ExitCode.SOME_FAILED)
    if summary[case.NOTHING_FOUND]:
        sys.exit(ExitCode.NOTHING_FOUND)
    if summary["untrusted"]:
        sys.exit(ExitCode.NOTHING_TRUSTED)
