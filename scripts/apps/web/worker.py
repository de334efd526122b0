# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The process that computes for all users: one job at a time, with progress, stopped at any moment.

A thread cannot be interrupted, and a damaged upload may end the process that reads it, so the jobs of
:mod:`.jobs` run in a separate process. It keeps its imports from job to job; a stopped process is replaced.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ...common.errors import InputError

logger = logging.getLogger(__name__)

TICK_S = 0.25  # between two reports of a waiting job, which notices a cancellation only then


@dataclass(frozen=True)
class Step:
    """What a job reports.

    Attributes:
        text: what is being done.
        part: how much of it is done, in [0, 1]; None if unknown.
        done: whether this is the last report.
        value: what the job returns, once it is done.
    """

    text: str
    part: float | None = None
    done: bool = False
    value: Any = None


class Worker:
    """Runs jobs in a process that is started at once and lives until :meth:`close`."""

    def __init__(self) -> None:
        self._queue: list[tuple[object, Path]] = []  # the running job, then those that wait: a token and the folder
        self._start()

    def run(self, job: str, folder: Path, arguments: Callable[[], Sequence[Any]]) -> Iterator[Step]:
        """Runs a job when it is its turn. Closing the iterator stops it.

        Args:
            job: name of a function of :mod:`scripts.apps.web.jobs`.
            folder: working directory of the job.
            arguments: returns the arguments of the function; called when the job begins.

        Yields:
            what it does, several times a second, and finally its result.

        Raises:
            InputError: why the job failed.
        """
        turn = object(), folder
        self._queue.append(turn)
        try:
            while (ahead := self._queue.index(turn)) > 0:
                yield Step(f"Waiting for {ahead} other {'job' if ahead == 1 else 'jobs'}")
                time.sleep(TICK_S)
            yield from self._answers(job, folder, arguments())
        finally:
            self._queue.remove(turn)

    def stop(self, folder: Path) -> None:
        """Stops the job that is running in a folder, if any."""
        if self._queue and self._queue[0][1] == folder:
            self.close()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()

    def _answers(self, job: str, folder: Path, arguments: Sequence[Any]) -> Iterator[Step]:
        step, answered = Step("Starting"), False
        try:
            self._pipe.send((job, str(folder), tuple(arguments)))
            while not step.done:
                yield step
                if self._pipe.poll(TICK_S):
                    answer = self._pipe.recv()
                    if isinstance(answer, InputError):
                        answered = True
                        raise answer
                    step = answer
            answered = True
        except (EOFError, OSError) as error:
            raise InputError("The job was stopped, or ran out of memory; try smaller images.") from error
        finally:
            if not answered:
                self.close()
                self._start()
        yield step

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()


def _serve(pipe: Connection) -> None:
    """Runs the jobs that come through a pipe until its other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends this process
    from tqdm import tqdm

    from . import jobs

    def report(bar: tqdm, *args: Any, **kwargs: Any) -> None:
        pipe.send(Step(bar.desc or "Computing", bar.n / bar.total if bar.total else None))

    tqdm.display = report  # every bar of the program is shown on the page
    while True:
        try:
            job, folder, arguments = pipe.recv()
        except EOFError:
            return
        try:
            with chdir(folder):  # so that messages and results name files relative to it
                value = getattr(jobs, job)(*arguments)
            pipe.send(Step("Done", 1.0, True, value))
        except Exception as error:  # of any kind; the next job can still run
            pipe.send(_sentence(error, folder))


def _sentence(error: Exception, folder: str) -> InputError:
    """What the user is told, without paths of the server."""
    from ...workflow.outcome import input_error

    plain = input_error(error)
    if plain is None:
        logger.error("a job failed", exc_info=error)
        return InputError("The server could not do this; its log has the details.")
    return InputError(str(plain).replace(folder + os.sep, "").replace(folder, "the session"))
