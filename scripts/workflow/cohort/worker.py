# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A process that registers pairs of a cohort: its heartbeat, its half-made results, and the pairs it has claimed.

Workers of a sharded cohort share only a folder. Each touches its own file every few seconds; a worker whose file
is old is dead, and its pairs are free again. A pair is claimed by creating the file ``PAIR.GENERATION``, which only one
worker can do; a pair of a dead worker is claimed as the next generation. Claims thus need no lock and no clock but the
file server's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...common.errors import InputError
from . import case

# A worker without a heartbeat for this many seconds is dead; increase it for a slow file server.
LEASE_S = float(os.environ.get("SAM_REGISTRATION_LEASE_S", "60"))
CLAIMS, ALIVE = "claims", "alive"
SHARD, ONLY = "shard", "only"


class Worker:
    """This process in the folder of a cohort. Use as a context: a clean end leaves nothing behind.

    ``shared`` says that other workers may register pairs of the same cohort at the same time; after ``lease_s`` seconds
    without a heartbeat a worker counts as dead.
    """

    def __init__(self, output_dir: Path, shared: bool = False, lease_s: float = LEASE_S) -> None:
        self.name = f"{SHARD if shared else ONLY}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.output_dir, self.lease_s = output_dir, lease_s
        self.running = output_dir / case.RUNNING
        self._stop = threading.Event()

    def __enter__(self) -> Worker:
        if self.running.is_symlink():  # its target is not ours
            self.running.unlink()
        _make(self.running / self.name)
        self._alive.touch()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        shutil.rmtree(self.running / self.name, ignore_errors=True)
        for folder in (self.running / CLAIMS, self.running):
            with contextlib.suppress(OSError):  # other workers are still there
                folder.rmdir()

    @property
    def _alive(self) -> Path:
        return self.running / self.name / ALIVE

    def _beat(self) -> None:
        while not self._stop.wait(self.lease_s / 6):
            with contextlib.suppress(OSError):
                self._alive.touch()

    def others(self) -> tuple[list[str], list[str]]:
        """Names of the other workers that are alive, and of those that are dead."""
        self._alive.touch()
        now, alive, dead = self._alive.stat().st_mtime, [], []
        for folder in self.running.iterdir():
            if folder.name not in (CLAIMS, self.name):
                with contextlib.suppress(OSError):
                    (alive if now - _heartbeat(folder) < self.lease_s else dead).append(folder.name)
        return alive, dead

    def recover(self, alone: bool) -> None:
        """Clears what dead workers left: replaced results come back, half-made ones are deleted and their names noted.

        ``alone``: this process has the lock of the folder, so no other one without a shard can be alive. Raises
        :class:`InputError` if workers are alive that this one cannot work beside.
        """
        alive, dead = self.others()
        if alone:
            dead += [name for name in alive if not name.startswith(SHARD)]
        living = [name for name in alive if name not in dead]
        wrong = living if alone else [name for name in living if not name.startswith(SHARD)]
        if wrong:
            raise InputError(
                f"{self.output_dir} is in use by {wrong[0]}; wait until it has finished, or give another --output_dir."
            )
        for name in dead:
            case.recover(self.output_dir, self.running / name)
        if alone:
            for claim in (self.running / CLAIMS).glob("*"):
                claim.unlink()

    @contextmanager
    def claimed(self, name: str) -> Iterator[int | None]:
        """Claims a pair while the context is open.

        Yields how many workers died with this pair, or None if another living worker has it.
        """
        claims = self._claims(name)
        generation = len(claims)
        if claims and not self._is_dead(claims[-1]):
            yield None
            return
        path = self.running / CLAIMS / f"{case.flat(name)}.{generation}"
        if not self._write(path):
            yield None
            return
        try:
            yield generation
        finally:
            # Also its own: the list ends at a gap, where another worker has just released an older claim.
            for claim in (*self._claims(name), path):
                claim.unlink(missing_ok=True)

    def _write(self, claim: Path) -> bool:
        """Creates the file of a claim with the name of this worker; False if another worker was faster."""
        while True:
            with contextlib.suppress(FileExistsError):
                claim.parent.mkdir()
            try:
                with claim.open("x", encoding="utf-8") as stream:
                    stream.write(self.name)
                return True
            except FileExistsError:
                return False
            except FileNotFoundError:  # a worker that ended has just removed the folder
                continue

    def _claims(self, name: str) -> list[Path]:
        paths = (self.running / CLAIMS / f"{case.flat(name)}.{generation}" for generation in itertools.count())
        return list(itertools.takewhile(Path.exists, paths))

    def _is_dead(self, claim: Path) -> bool:
        try:
            owner = claim.read_text(encoding="utf-8")
            if not owner:  # created a moment ago
                return self._alive.stat().st_mtime - _changed(claim) >= self.lease_s
        except OSError:
            return False  # released a moment ago
        self._alive.touch()
        return self._alive.stat().st_mtime - _heartbeat(self.running / owner) >= self.lease_s


def _make(folder: Path) -> None:
    """Makes the folder of a worker, and the shared one around it, which a worker that ends may remove meanwhile."""
    while True:
        with contextlib.suppress(FileExistsError):
            folder.parent.mkdir(parents=True)
        try:
            folder.mkdir()
            return
        except FileNotFoundError:
            continue


def _heartbeat(folder: Path) -> float:
    """Time of the last heartbeat of a worker; that of its folder if it is just beginning, 0 if it has ended."""
    return _changed(folder / ALIVE) or _changed(folder)


def _changed(path: Path) -> float:
    """Time of the last change; 0 for a file that is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
