# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Registering a list of pairs: resumed where it stopped, one failure not stopping the rest, spread over processes."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.utils import set_determinism
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ...common.errors import InputError
from ...common.fingerprint import file_sha256, fingerprint, settings
from ...common.lock import locked
from ...data.pair import one_pair
from ...sam.cache import CachedEverything
from ..guard import check_output_dir
from ..outcome import ExitCode, input_error
from . import case
from .pairs import Entry
from .ranks import from_all, from_first, process_group, share
from .summary import summarise, write_summary

logger = logging.getLogger(__name__)


class Cohort:
    """Runs an evaluator on one pair after the other and keeps the results of each in a folder of its own.

    Args:
        entries: the pairs.
        output_dir: gets a folder a pair, summary.csv and summary.json.
        evaluator: registers and writes a pair; its postprocessing takes the folder from the batch's "output_dir".
        preprocessing: loads a pair.
        postprocessing: of the evaluator, for its settings.
        parameters: the record of the settings that the evaluator writes.
        method: "name" and "reason", for the summary.
        seed: set anew for every pair, so that a pair's result depends on no other pair.
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
    ) -> None:
        self.entries, self.output_dir, self.seed = list(entries), Path(output_dir), seed
        self.method = dict(method or {})
        self.evaluator, self.preprocessing = evaluator, preprocessing
        self.described = (preprocessing, evaluator.inferer, evaluator.network, postprocessing, dict(parameters), seed)
        self.error: BaseException | None = None
        # Ignite cannot run again after an exception that nobody has handled.
        evaluator.add_event_handler(Events.EXCEPTION_RAISED, self._keep_error)

    def run(self) -> dict[str, Any] | None:
        """Registers every pair that is not done.

        Returns:
            the summary (see :func:`scripts.workflow.cohort.summary.summarise`), in the first process only.

        Raises:
            InputError: the output folder is in use, cannot be written, or the disk is full.
        """
        check_output_dir(self.output_dir)
        began = time.perf_counter()
        with process_group() as (rank, size):
            if rank:
                self._run_share(from_first(None, size), rank, size)
                return None
            with locked(self.output_dir):
                case.recover(self.output_dir)
                key = self.settings_key()
                for entry in self.entries:
                    case.check_free(self.output_dir / entry.name)
                todo = [e.name for e in self.entries if not case.is_done(self.output_dir / e.name, e.item, key)]
                done = len(self.entries) - len(todo)
                if done:
                    logger.info("%d of %d pairs are done already", done, len(self.entries))
                slices = self._run_share(from_first((todo, key), size), rank, size)
                shutil.rmtree(self.output_dir / case.RUNNING, ignore_errors=True)
                records = [case.read_record(self.output_dir / e.name) for e in self.entries]
                seconds = round(time.perf_counter() - began, 1)
                facts = {"method": self.method, "done_before": done, "seconds": seconds, "processes": size}
                facts["slices"] = slices
                summary = summarise([r for r in records if r is not None], facts)
                with self._full_disk_is_said():
                    write_summary(self.output_dir, summary)
                return summary

    def settings_key(self) -> str:
        """Hash of everything besides the images that decides a result."""
        parameters = self.described[4]
        files = {k: file_sha256(Path(v)) for k, v in parameters.items() if isinstance(v, str) and Path(v).is_file()}
        return fingerprint(*(settings(value) for value in self.described), files)

    def _run_share(self, work: tuple[list[str], str], rank: int, size: int) -> dict[str, int]:
        """Registers this process's share of the pairs that are left; counts the slices of all processes."""
        names, key = work
        left = [e for e in self.entries if e.name in set(names)]
        # Pairs with the same fixed image follow each other: what was computed for it is then still in the store.
        first_seen = {e.item["fixed"]: i for i, e in reversed(list(enumerate(left)))}
        mine = share(sorted(left, key=lambda e: first_seen[e.item["fixed"]]), rank, size)
        title = "pairs" if size == 1 else f"pairs of process {rank + 1} of {size}"
        with quiet_console(), tqdm(mine, desc=title, unit="pair", disable=rank > 0 or not mine) as bar:
            for entry in bar:
                bar.set_postfix_str(entry.name, refresh=False)
                record = self._one(entry, key)
                if record["status"] == case.FAILED:
                    bar.write(f"{entry.name}: failed: {record['error']}", file=sys.stderr)
        store = getattr(self.evaluator.inferer, "everything", None)
        counts = from_all(store.counts if isinstance(store, CachedEverything) else {}, size)
        return {k: sum(c.get(k, 0) for c in counts) for k in counts[0]}

    def _one(self, entry: Entry, key: str) -> dict[str, Any]:
        """Registers one pair; its folder appears when all that belongs in it is written."""
        stage = self.output_dir / case.RUNNING / entry.name
        shutil.rmtree(stage, ignore_errors=True)
        began = time.perf_counter()
        with self._full_disk_is_said():
            stage.mkdir(parents=True)
            record: dict[str, Any] = {"name": entry.name}
            record |= {role: entry.item[role] for role in ("moving", "fixed")}
            with case_log(stage / case.LOG):
                try:
                    record["inputs"] = case.describe_inputs(entry.item)
                    record["key"] = case.pair_key(record["inputs"], key)
                    record |= self._register({**entry.item, "output_dir": str(stage)}, stage)
                except Exception as error:  # whatever it is, the other pairs can still be registered
                    if case.is_disk_full(error):
                        raise
                    reason = input_error(error)
                    logger.error("failed: %s", reason or error, exc_info=reason is None)
                    text = str(reason or error).strip().splitlines() or [""]
                    record |= {
                        "status": case.FAILED,
                        "error": text[0] if reason else f"{type(error).__name__}: {text[0]}",
                    }
            record["seconds"] = round(time.perf_counter() - began, 3)
            record["files"] = {p.name: p.stat().st_size for p in sorted(stage.iterdir())}
            case.write_whole(stage / case.RECORD, json.dumps(record, indent=2, ensure_ascii=False))
            case.publish(stage, self.output_dir / entry.name)
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
        found = written["pairs"] or (stage / "ddf.nii.gz").exists()
        return {
            "status": case.REGISTERED if found else case.NOTHING_FOUND,
            "matches": len(written["pairs"]),
            "metrics": written["metrics"],
            "warnings": written["warnings"],
        }

    def _keep_error(self, engine: Engine, error: BaseException) -> None:
        self.error = error

    @contextmanager
    def _full_disk_is_said(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not case.is_disk_full(error):
                raise
            raise InputError(
                f"The disk of {self.output_dir} is full; what was complete stands as it was. Make room and run the "
                "same command again to go on."
            ) from error


@contextmanager
def case_log(path: Path) -> Iterator[None]:
    """Everything that is logged meanwhile also goes to a file."""
    handler = logging.FileHandler(path, mode="w", encoding="utf-8", delay=True)
    handler.handleError = lambda record: None  # a full disk is said once, by the results that no longer fit
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


@contextmanager
def quiet_console() -> Iterator[None]:
    """The terminal belongs to the progress bar meanwhile; what is logged is in the logs of the pairs."""
    with logging_redirect_tqdm():
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL)
        yield


def finish_cohort(summary: Mapping[str, Any] | None) -> None:
    """Says how it went, and ends with exit code 4 when a pair failed, 3 when one has no matched regions.

    Args:
        summary: of :meth:`Cohort.run`; None in all processes but the first.
    """
    if summary is None:
        return
    counts = [f"{summary[status]} {word}" for status, word in (
        (case.REGISTERED, "registered"), (case.NOTHING_FOUND, "without matched regions"), (case.FAILED, "failed")
    )]  # fmt: skip
    logger.info("%d pairs: %s; see summary.csv", len(summary["pairs"]), ", ".join(counts))
    for key, name in (("dice", "mean Dice"), ("hd95_mm", "mean HD95 (mm)"), ("tre_mm", "mean TRE (mm)")):
        stages = {s: summary["metrics"].get(f"{key}/mean/{s}") for s in ("initial", "aligned", "final")}
        shown = [f"{s} {v['mean']:.4g} ± {v['sd']:.2g}" for s, v in stages.items() if v]
        if shown:
            logger.info("%s: %s", name, "  ".join(shown))
    if summary[case.FAILED]:
        sys.exit(ExitCode.SOME_FAILED)
    if summary[case.NOTHING_FOUND]:
        sys.exit(ExitCode.NOTHING_FOUND)
