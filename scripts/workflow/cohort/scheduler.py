# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Registering a list of pairs on a Dask cluster: one task per pair, on any number of machines that share folders."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from ...common.errors import InputError
from ..outcome import input_error, reason
from ..run import make_workflow
from . import case
from .pairs import Entry
from .progress import show_failure
from .run import MOST_KILLS, Cohort

logger = logging.getLogger(__name__)

PATIENCE_S = 30.0  # for the scheduler to answer
_cohorts: dict[str, Cohort] = {}  # of this worker, by configs and options
_one_at_a_time = threading.Lock()  # a model and its evaluator serve one pair


def run_on_scheduler(configs: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Registers every pair that is not done on the workers of a Dask scheduler, and returns the summary.

    The workers must see the images and the output folder under the same paths, and import this package. Dask gives the
    pair of a worker that died to another one; after ``MOST_KILLS`` deaths the pair counts as failed. The option
    "scheduler" is the address, e.g. tcp://10.0.0.1:8786.

    Raises:
        InputError: Dask is not installed, no scheduler answers, or a cohort cannot use the input.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise InputError("--scheduler needs the package distributed: pip install distributed.") from error
    began = time.perf_counter()
    options = dict(options)
    address = options.pop("scheduler")
    cohort = make_cohort(configs, options)
    with cohort.only_writer() as worker:
        key = cohort.settings_key()
        todo = cohort.plan(key)
        try:
            client = Client(address, timeout=PATIENCE_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(f"No Dask scheduler answers at {address}; correct --scheduler.") from error
        with client:
            tasks = {
                client.submit(register_pair, list(configs), options, entry, key, pure=False): entry for entry in todo
            }
            ended = as_completed(tasks, loop=client.loop)
            for task in tqdm(ended, total=len(tasks), desc="pairs", unit="pair", disable=None):
                error = task.exception()
                if error is None:
                    show_failure(task.result())
                elif type(error).__name__ == "KilledWorker":
                    show_failure(cohort.runner.give_up(tasks[task], worker.name, MOST_KILLS))
                else:
                    raise input_error(error) or InputError(f"{tasks[task].name}: {reason(error)}") from error
        worker.recover(alone=True)
        for entry in todo:
            case.survived(cohort.output_dir, entry.name)
        return cohort.finish(began, len(cohort.entries) - len(todo), scheduler=address)


def register_pair(configs: list[str], options: dict[str, Any], entry: Entry, key: str) -> dict[str, Any]:
    """The task of a worker: registers one pair and returns "name", "status" and, of a failure, "error".

    Raises:
        InputError: this worker has other weights or another version than the client, or its disk is full.
    """
    with _one_at_a_time:
        name = json.dumps([configs, {k: str(v) for k, v in options.items()}], sort_keys=True)
        if name not in _cohorts:
            _cohorts.clear()
            cohort = make_cohort(configs, options)
            if cohort.settings_key() != key:
                raise InputError(
                    f"The worker on {socket.gethostname()} has other weights or another version than this program; "
                    "install the same bundle on all machines."
                )
            _cohorts[name] = cohort
        record = _cohorts[name].runner.one(entry, key, f"only-{socket.gethostname()}-{os.getpid()}-dask")
        return {k: record[k] for k in ("name", "status", "error") if k in record}


def make_cohort(configs: Sequence[str], options: Mapping[str, Any]) -> Cohort:
    """The cohort that these configs and options describe."""
    return make_workflow(configs, options).parser.get_parsed_content("cohort")
