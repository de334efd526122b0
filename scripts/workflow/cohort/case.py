# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The folder of one pair: its inputs, whether it is complete, and its replacement as a whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.errors import InputError
from ...common.files import remove, whole_file
from ...common.fingerprint import file_sha256, fingerprint

RECORD, FAILURE = "case.json", "failure.json"  # the second one is written next to the result of an earlier run
LOG = "case.log"
RUNNING = ".running"  # unfinished folders, hidden until they are complete
KILLED = ".killed"  # one empty file for each pair that was being registered when its process was killed
NEW, OLD = "new", "old"
REGISTERED, NOTHING_FOUND, FAILED = "registered", "nothing_found", "failed"


def flat(name: str) -> str:
    """The name of a pair, which may have slashes, as one file name."""
    return name.replace("%", "%25").replace("/", "%2F")


def read_record(folder: Path, name: str = RECORD) -> dict | None:
    """The record of a pair, or None if none can be read."""
    try:
        record = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def last_record(folder: Path) -> dict | None:
    """The record of a pair, or of a later run that failed and left the result: that failure without the old numbers."""
    failure = read_record(folder, FAILURE)
    if failure is not None:
        failure["error"] = f"{failure.get('error', FAILED)} (the earlier result is kept)"
    return failure or read_record(folder)


def describe_inputs(item: Mapping[str, Any], known: Mapping[str, dict] | None = None) -> dict[str, Any]:
    """Path, size, modification time and SHA-256 of each file of a pair, by column; other values unchanged.

    ``known`` is the result of an earlier run: a file with the same path, size and time is not read again.
    """
    described: dict[str, Any] = {}
    for key, value in item.items():
        path = Path(value) if isinstance(value, str) else None
        files = [] if path is None else _files(path)
        if not files:
            described[key] = value
            continue
        states = [f.stat() for f in files]
        entry = {
            "path": str(value),
            "bytes": sum(s.st_size for s in states),
            "changed_ns": max(s.st_mtime_ns for s in states),
        }
        before = (known or {}).get(key)
        if isinstance(before, dict) and entry.items() <= before.items() and "sha256" in before:
            entry["sha256"] = before["sha256"]
        elif path.is_dir():
            entry["sha256"] = fingerprint({f.name: file_sha256(f) for f in files})
        else:
            entry["sha256"] = file_sha256(path)
        described[key] = entry
    return described


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(f for f in path.iterdir() if f.is_file())
    return [path] if path.is_file() else []


def pair_key(inputs: Mapping[str, Any], settings_key: str) -> str:
    """Hash of what decides the result of a pair: the content of its files, wherever they are, and the settings."""
    return fingerprint({k: v["sha256"] if isinstance(v, dict) else v for k, v in inputs.items()}, settings_key)


def is_good(folder: Path) -> bool:
    """Whether a folder contains a complete result, from any inputs."""
    record = read_record(folder)
    if record is None or record.get("status") not in (REGISTERED, NOTHING_FOUND):
        return False
    try:
        sizes = {p.name: p.stat().st_size for p in folder.iterdir() if p.is_file()}
    except OSError:  # another worker is replacing it
        return False
    return record.get("files", {}).items() <= sizes.items()


def is_done(folder: Path, item: Mapping[str, Any], settings_key: str) -> bool:
    """Whether a folder contains the complete result of this pair with these settings; a failure is tried again."""
    record = read_record(folder)
    if record is None or not is_good(folder):
        return False
    try:
        return record.get("key") == pair_key(describe_inputs(item, record.get("inputs")), settings_key)
    except OSError:  # an image that cannot be read now: registering it says why
        return False


def failed_since(folder: Path, when: float) -> bool:
    """Whether a worker noted a failure of this pair after a time in seconds since the epoch."""
    for name in (FAILURE, RECORD):
        record = read_record(folder, name)
        if record is not None:
            with contextlib.suppress(OSError):  # another worker is replacing it
                return record.get("status") == FAILED and (folder / name).stat().st_mtime > when
    return False


def check_free(folder: Path) -> None:
    """Raises :class:`InputError` if something that no cohort has written is in the place of a pair's folder."""
    # Read once: another worker may replace the folder at any moment.
    try:
        names = {entry.name for entry in folder.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        names = {folder.name}
    if names and RECORD not in names:
        raise InputError(
            f"{folder} exists and is not a result of a cohort; give another --output_dir or name the pair differently."
        )


def publish(stage: Path, target: Path) -> None:
    """Replaces a pair's folder by a complete one; the old one is deleted once the new one is in its place."""
    old = stage.parents[1] / OLD / stage.name
    old.parent.mkdir(exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        target.rename(old)
    stage.rename(target)
    remove(old)


def keep_failure(stage: Path, target: Path, record: Mapping[str, Any]) -> None:
    """Notes a failure next to the good result of an earlier run, which stays."""
    write_record(target / FAILURE, record)
    if (stage / LOG).exists():
        (stage / LOG).replace(target / "failure.log")
    remove(stage)


def forget_failure(folder: Path) -> None:
    """Deletes the note of a failure once the result is known to be that of this run."""
    for name in (FAILURE, "failure.log"):
        (folder / name).unlink(missing_ok=True)


def recover(output_dir: Path, left: Path) -> None:
    """Clears the folder of a killed process: a result that it was replacing is restored.

    The pairs that it was registering are noted in ``KILLED``.
    """
    for old in (left / OLD).glob("*"):
        target = output_dir / old.name.replace("%2F", "/").replace("%25", "%")
        if not target.exists():
            old.rename(target)
    for half in (left / NEW).glob("*"):
        (output_dir / KILLED).mkdir(exist_ok=True)
        (output_dir / KILLED / half.name).touch()
    remove(left)


def was_killed(output_dir: Path, name: str) -> bool:
    """Whether the process that last registered a pair was killed meanwhile."""
    return (output_dir / KILLED / flat(name)).exists()


def survived(output_dir: Path, name: str) -> None:
    """Forgets that a process was killed with a pair."""
    with contextlib.suppress(OSError):
        (output_dir / KILLED / flat(name)).unlink()
        (output_dir / KILLED).rmdir()


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes the record of a pair completely or not at all."""
    with whole_file(path) as part:
        part.write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk or an exceeded quota caused an exception."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
