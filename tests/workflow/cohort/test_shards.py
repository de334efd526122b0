"""Sharing a cohort: equal parts that keep a fixed image together, and workers that share only a folder."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from scripts.common.errors import InputError
from scripts.workflow.cohort import case
from scripts.workflow.cohort.pairs import Entry
from scripts.workflow.cohort.ranks import by_fixed, shard_of, share
from scripts.workflow.cohort.worker import Worker
from tests.workflow.cohort.conftest import results, write_list
from tests.workflow.cohort.test_processes import NAMES, command, environment


def test_shares_are_a_partition_and_keep_fixed_images_together():
    chance = random.Random(0)
    for _ in range(100):
        groups, size = chance.randint(1, 30), chance.randint(1, 9)
        entries = [Entry(str(k), {"fixed": str(chance.randrange(groups))}) for k in range(chance.randint(0, 90))]
        ordered = by_fixed(entries)
        parts = [share(ordered, k, size) for k in range(size)]
        assert [e for part in parts for e in part] == ordered
        for part in parts:
            assert len(part) <= 2 * len(ordered) / size + 1
    even = [Entry(str(k), {"fixed": str(k // 10)}) for k in range(80)]  # a border of every share is near one of images
    parts = [share(even, k, 7) for k in range(7)]
    assert all(a[-1].item["fixed"] != b[0].item["fixed"] for a, b in pairwise(parts))
    atlas = [Entry(str(k), {"fixed": "atlas"}) for k in range(80)]
    assert [len(share(atlas, k, 8)) for k in range(8)] == [10] * 8


def test_the_shard_comes_from_the_option_or_the_scheduler():
    slurm = {f"SLURM_ARRAY_TASK_{k}": v for k, v in (("ID", "14"), ("MIN", "10"), ("MAX", "16"), ("STEP", "2"))}
    kubernetes = {"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "8"}
    assert shard_of("2/5", slurm) == (2, 5)
    assert shard_of(None, slurm) == (2, 4) and shard_of(None, kubernetes) == (3, 8)
    assert shard_of(None, {}) is None and shard_of("none", slurm) is None
    assert shard_of(None, {"JOB_COMPLETION_INDEX": "3"}) is None
    torchrun = {"RANK": "1", "WORLD_SIZE": "2"}
    assert shard_of(None, torchrun) == (1, 2) and shard_of("2/5", torchrun) == (5, 10)
    for wrong in ("5/5", "1", "a/b", "-1/4", 3):
        with pytest.raises(InputError, match="--shard must be i/n"):
            shard_of(wrong, {})


def age(worker: Worker) -> None:
    """Makes a worker look dead."""
    worker._stop.set()
    os.utime(worker._alive, (time.time() - 1000,) * 2)


def test_a_pair_belongs_to_one_living_worker(tmp_path):
    with Worker(tmp_path, shared=True) as a, Worker(tmp_path, shared=True) as b, Worker(tmp_path, shared=True) as c:
        with a.claimed("sub-01/ses-1") as kills:
            assert kills == 0
            with b.claimed("sub-01/ses-1") as other, b.claimed("another") as free:
                assert other is None and free == 0
            age(a)
            with b.claimed("sub-01/ses-1") as taken:
                assert taken == 1  # one worker died with it
                with c.claimed("sub-01/ses-1") as late:
                    assert late is None
        with c.claimed("sub-01/ses-1") as again:
            assert again == 0
    assert not (tmp_path / case.RUNNING).exists()


def test_a_dead_worker_is_cleared_and_its_pair_noted(tmp_path):
    with Worker(tmp_path, shared=True) as alive:
        dead = Worker(tmp_path, shared=True).__enter__()
        for worker in (alive, dead):
            (worker.running / worker.name / case.NEW / worker.name).mkdir(parents=True)
        age(dead)
        alive.recover(alone=False)
        assert case.was_killed(tmp_path, dead.name) and not case.was_killed(tmp_path, alive.name)
        assert not (dead.running / dead.name).exists()
        assert (alive.running / alive.name / case.NEW / alive.name).exists()
        with Worker(tmp_path) as other, pytest.raises(InputError, match="is in use by shard-"):
            other.recover(alone=True)
        with Worker(tmp_path), pytest.raises(InputError, match="is in use by only-"):
            alive.recover(alone=False)


def test_a_worker_that_is_just_beginning_is_not_dead(tmp_path):
    with Worker(tmp_path, shared=True) as alive:
        beginning = alive.running / "shard-elsewhere-1-abcdef"
        beginning.mkdir()  # no heartbeat yet
        alive.recover(alone=False)
        assert beginning.exists()
        os.utime(beginning, (time.time() - 1000,) * 2)
        alive.recover(alone=False)
        assert not beginning.exists()


def test_workers_begin_and_claim_while_others_end(tmp_path):
    """The one that ends last removes the shared folders, perhaps just before another one needs them."""

    def begin_and_end(_: int) -> None:
        for _ in range(300):
            with Worker(tmp_path, shared=True) as worker:
                worker.recover(alone=False)
                with worker.claimed("heart"):
                    pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(begin_and_end, range(4)))
    assert not (tmp_path / case.RUNNING).exists()


@pytest.mark.slow
def test_two_shards_share_a_folder_and_one_is_killed(bundle, phantoms, undisturbed, tmp_path):
    """The living worker takes over the pair of the dead one; the results are those of one undisturbed process."""
    out, lease = tmp_path / "out", {"SAM_REGISTRATION_LEASE_S": "6"}
    words = command(write_list(tmp_path / "list.json", phantoms), out, seconds=1.0)
    with (tmp_path / "said").open("wb") as said:
        workers = [
            subprocess.Popen(
                [*words, "--shard", f"{k}/2"], cwd=bundle, env=environment() | lease, stdout=said, stderr=said
            )
            for k in range(2)
        ]
        try:
            until = time.monotonic() + 300
            while not (begun := list(out.glob(f"{case.RUNNING}/*-{workers[0].pid}-*/{case.NEW}/*"))):
                assert workers[0].poll() is None and time.monotonic() < until, (tmp_path / "said").read_text()
                time.sleep(0.02)
            workers[0].send_signal(signal.SIGKILL)
            assert workers[1].wait(timeout=300) == 0, (tmp_path / "said").read_text()
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert begun[0].name in NAMES
    assert results(out, NAMES) == results(undisturbed, NAMES)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert (summary["registered"], summary["shard"]) == (3, "1/2")
    assert {p.name for p in out.iterdir()} == {*NAMES, ".cache", "summary.csv", "summary.json", "report.html"}
