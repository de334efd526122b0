"""Runs one hostile call in this process and judges how it ended."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import math
import os
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch

from scripts.__main__ import main
from scripts.spatial.transform_files import read_chain
from scripts.workflow.outcome import ExitCode

from .attacks import Attack, attack, targets

LONGEST_S = {"SIGPROF": 30, "SIGALRM": 180}  # of computing, and by the clock, which also ends waiting for a pipe
OUR_OWN = (".cache", ".lock", ".lock.holder")  # kept after a refusal: masks that were made, and the lock
INTERNAL = re.compile(r"^\w*(Error|Exception|Interrupt)\b: |<[\w.]+ object at 0x|Traceback \(most recent")


class HangError(BaseException):
    """A call took too long; not an Exception, so that no command takes it for a failed pair."""


@dataclass
class Outcome:
    """How a call ended.

    Attributes:
        code: exit code; None after a traceback or a hang.
        wrong: what is wrong, empty if nothing is.
        said: what the call printed.
        seconds: it took.
    """

    code: int | None
    wrong: list[str] = field(default_factory=list)
    said: str = ""
    seconds: float = 0.0


def one(seed: int, number: int, good: Path, folder: Path) -> tuple[Attack, Outcome]:
    """Prepares and runs input ``number`` of a seed.

    Args:
        seed: of the whole run.
        number: of the input.
        good: see :func:`tests.hostile.inputs.make_inputs`.
        folder: empty.
    """
    chance, table = random.Random(f"{seed} {number}"), targets()
    call = attack(table[number % len(table)], good, folder, chance)
    return call, judge(call, good)


def judge(call: Attack, good: Path) -> Outcome:
    """Runs a call and checks exit code, output, messages, results and inputs."""
    inputs, before = state(good) | state(call.inputs) | state(*call.kept), state(call.out)
    began = time.perf_counter()
    code, said, errors = run(call)
    outcome = Outcome(code, said=said + errors, seconds=time.perf_counter() - began)
    wrong = outcome.wrong
    sentences = [line for line in errors.splitlines() if line.startswith("error: ")]
    if code is None:
        wrong.append(f"ended with a traceback or a hang: {errors.strip().splitlines()[-1]}")
    elif code == 1 and (len(sentences) != 1 or len(sentences[0]) < 20 or INTERNAL.search(sentences[0][7:])):
        wrong.append(f"said no sentence: {errors[-300:]!r}")
    elif code not in set(ExitCode) - {ExitCode.INTERRUPTED}:
        wrong.append(f"ended with the code {code}")
    if code != 1 and sentences:
        wrong.append(f"said {sentences[0]!r} and ended with the code {code}")
    if "Traceback (most recent" in said or "HDF5-DIAG" in errors:
        wrong.append("shows a traceback")
    after = state(call.out)
    if code == 1 and after != before:
        changed = sorted(p for p in after.keys() | before.keys() if after.get(p) != before.get(p))
        wrong.append(f"was refused but changed {', '.join(Path(p).name for p in changed)}")
    if any("/.writing-" in p for p in after):
        wrong.append("left a temporary file")
    if state(good) | state(call.inputs) | state(*call.kept) != inputs:
        wrong.append("changed an input")
    for path in after:
        if after[path] != before.get(path):
            wrong += [f"{Path(path).name}: {fault}" for fault in faults(Path(path))]
    return outcome


def run(call: Attack) -> tuple[int | None, str, str]:
    """Exit code (None after a traceback or a hang), standard output and standard error of a command line."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        _untouched(call), _one_thread(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors),
        _time_limit(),
    ):  # fmt: skip
        try:
            sys.argv = ["scripts", *call.words()]
            main()
            code: int | None = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except (Exception, HangError):
            code = None
            errors.write(traceback.format_exc())
    return code, out.getvalue(), errors.getvalue()


@contextlib.contextmanager
def _untouched(call: Attack) -> Iterator[None]:
    """Restores what a command line changes in its process; the working folder is that of the results."""
    root = logging.getLogger()
    handlers, level, argv, folder = root.handlers[:], root.level, sys.argv, Path.cwd()
    os.chdir(call.out)
    try:
        yield
    finally:
        os.chdir(folder)
        root.handlers, sys.argv = handlers, argv
        root.setLevel(level)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine count as computing: four times as much of it with two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Raises :class:`HangError` inside after LONGEST_S, where the system has such alarms."""

    def hang(*_: object) -> None:
        raise HangError(f"took longer than {LONGEST_S}")

    with contextlib.ExitStack() as stack:
        if hasattr(signal, "setitimer"):
            for name, seconds in LONGEST_S.items():
                timer = signal.ITIMER_PROF if name == "SIGPROF" else signal.ITIMER_REAL
                stack.callback(signal.signal, getattr(signal, name), signal.signal(getattr(signal, name), hang))
                signal.setitimer(timer, seconds)
                stack.callback(signal.setitimer, timer, 0)
        yield


def state(*places: Path) -> dict[str, str]:
    """The content of all files of some folders by path, as hashes."""
    found = {}
    for place in places:
        for path in [place] if place.is_file() else place.rglob("*"):
            if path.is_file() and not path.is_symlink() and not set(OUR_OWN) & set(path.parts):
                found[str(path)] = hashlib.blake2b(path.read_bytes()).hexdigest()
            elif path.name.startswith(".writing-"):
                found[f"{path}/.writing-"] = ""
    return found


def faults(path: Path) -> list[str]:
    """What is wrong with a result: unreadable, not finite, or a message that shows internals."""
    name = path.name.lower()
    try:
        if name.endswith((".nii.gz", ".nii")):
            return _finite(np.asarray(nib.load(path).dataobj))
        if name.endswith((".nrrd", ".mha")):
            return _finite(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
        if name.endswith(".npz"):
            return _finite(*np.load(path).values())
        if name.endswith((".h5", ".tfm", ".mat", ".txt")):
            return _finite(*(getattr(step, "u_lps", getattr(step, "matrix", 0)) for step in read_chain(path)))
        if name.endswith(".csv"):
            words = re.split(r"[,\s]+", path.read_text(encoding="utf-8").lower())
            return ["not finite"] if {"nan", "inf", "-inf"} & set(words) else []
        if name.endswith(".json"):
            return _internals(json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse))
    except Exception as error:
        return [f"cannot be read: {type(error).__name__}: {error}"]
    return ["shows a traceback"] if name.endswith(".log") and "Traceback" in path.read_text(encoding="utf-8") else []


def _finite(*arrays: np.ndarray) -> list[str]:
    return [] if all(np.isfinite(a).all() for a in arrays) else ["not finite"]


def _refuse(word: str) -> float:
    raise ValueError(f"{word} in JSON")


def _internals(value: object) -> list[str]:
    """Messages in a record that an InputError did not write."""
    if isinstance(value, dict):
        return [fault for v in value.values() for fault in _internals(v)]
    if isinstance(value, list):
        return [fault for v in value for fault in _internals(v)]
    if isinstance(value, float) and not math.isfinite(value):
        return ["not finite"]
    text = value.removeprefix("failed: ") if isinstance(value, str) else ""
    return [f"says {value!r}"] if INTERNAL.search(text) else []
