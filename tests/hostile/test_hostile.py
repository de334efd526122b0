"""Hostile inputs for every command end in a finite result or in one sentence; the inputs stay as they are."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

import pytest
import torch

from .attacks import Attack, targets
from .damage import damaged
from .fuzz import one, run

SEED = 7
FEW, MANY = 60, 500


def attacked(good, folder, numbers) -> Counter:
    """Runs inputs and returns how often each exit code came up."""
    codes: Counter = Counter()
    for number in numbers:
        place = folder / str(number)
        place.mkdir()
        call, outcome = one(SEED, number, good, place)
        assert not outcome.wrong, (
            f"input {number}: {call.command}: {call.what}: {outcome.wrong}\n{outcome.said[-3000:]}"
        )
        codes[outcome.code] += 1
    return codes


def test_a_few_inputs(good, tmp_path):
    codes = attacked(good, tmp_path, range(FEW))
    assert codes[0] > FEW // 6 and codes[1] > FEW // 6, codes


@pytest.mark.slow
def test_many_inputs(good, tmp_path):
    codes = attacked(good, tmp_path, range(FEW, MANY))
    assert codes[0] > MANY // 6 and codes[1] > MANY // 6, codes


def test_every_command_is_attacked():
    commands = Counter(target.command for target in targets())
    assert set(commands) == {
        "register", "correspond", "masks", "warp", "invert", "compose", "evaluate", "summarise"
    }  # fmt: skip
    assert len(targets()) <= FEW


def test_damage_depends_on_the_seed_alone(good, tmp_path):
    made = []
    for turn in range(2):
        for number, name in enumerate(("moving.nii.gz", "network.pt", "field.npz", "pairs.csv", "series")):
            place = tmp_path / f"{turn}_{number}"
            place.mkdir()
            damaged(good / name, place / name, random.Random(number))
            made.append(sorted((p.name, p.read_bytes()) for p in place.rglob("*") if p.is_file()))
    assert made[:5] == made[5:]


def test_waiting_threads_do_not_count_as_computing(good, tmp_path, monkeypatch):
    """The limit is on processor time, which threads also take while they wait for a core that is busy."""
    seen, before = [], torch.get_num_threads()
    monkeypatch.setattr("tests.hostile.fuzz.main", lambda: seen.append(torch.get_num_threads()))
    assert run(Attack("", "warp", {}, good, tmp_path))[0] == 0
    assert seen == [1] and torch.get_num_threads() == before


@pytest.mark.slow
def test_the_command(bundle):
    words = [sys.executable, "-m", "tests.hostile", "--seed", "1", "--count", "3"]
    done = subprocess.run(words, cwd=bundle, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0 and "seed 1, 3 inputs" in done.stdout and "; 0 with faults" in done.stdout
