# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The folder of one pair: what it was made from, whether it is complete, and how it appears, at once and whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.errors import InputError
from ...common.fingerprint import file_sha256, fingerprint

RECORD = "case.json"
LOG = "case.log"
RUNNING = ".running"  # folders in the making, out of sight until they are complete
REGISTERED, NOTHING_FOUND, FAILED = "registered", "nothing_found", "failed"


def read_record(folder: Path) -> dict | None:
    """The record of a pair, or None where there is none that can be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def describe_inputs(item: Mapping[str, Any], known: Mapping[str, dict] | None = None) -> dict[str, Any]:
    """What each file of a pair holds, by column: path, size, time of change and SHA-256; other values as they are.

    Args:
        item: paths and frames.
        known: the same of an earlier run; a file of the same path, size and time is not read again.
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
    """Hash of what decides the result of a pair: the content of its files, not where they lie, and the settings."""
    return fingerprint({k: v["sha256"] if isinstance(v, dict) else v for k, v in inputs.items()}, settings_key)


def is_done(folder: Path, item: Mapping[str, Any], settings_key: str) -> bool:
    """Whether a folder holds the complete result of this pair with these settings; a failure is tried again."""
    record = read_record(folder)
    if record is None or record.get("status") not in (REGISTERED, NOTHING_FOUND):
        return False
    sizes = {p.name: p.stat().st_size for p in folder.iterdir() if p.is_file()}
    if not record.get("files", {}).items() <= sizes.items():
        return False
    return record.get("key") == pair_key(describe_inputs(item, record.get("inputs")), settings_key)


def check_free(folder: Path) -> None:
    """Makes sure that a pair's folder can be replaced without loss.

    Raises:
        InputError: something that no cohort has written stands in its place.
    """
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / RECORD).exists())):
        raise InputError(
            f"{folder} exists and is no result of a cohort; give another --output_dir or name the pair differently."
        )


def publish(stage: Path, target: Path) -> None:
    """Puts a complete folder in the place of an old one, which goes only when the new one stands."""
    old = stage.with_name(f"{stage.name}.old")
    if os.path.lexists(target):
        target.rename(old)
    stage.rename(target)
    remove(old)


def remove(folder: Path) -> None:
    """Deletes a folder; of a link the link alone."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def recover(output_dir: Path) -> None:
    """Clears what a killed run left: half-made folders go, an old result that was just being replaced comes back."""
    running = output_dir / RUNNING
    if running.is_symlink():  # what it points to is not ours
        running.unlink()
    for old in running.glob("*.old"):
        target = output_dir / old.name.removesuffix(".old")
        if not target.exists():
            old.rename(target)
    shutil.rmtree(running, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file completely or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk or quota is behind an exception."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
