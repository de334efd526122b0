"""A small cohort of phantoms, and the results of an undisturbed run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from scripts import register
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom

QUICK = {
    "device": "cpu",
    "overview": False,
    "everything": {"_target_": "tests.workflow.cohort.stand_in.Bands"},
    "dense_settings#steps": 4,
}


def write_list(path: Path, rows: list[dict]) -> str:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return str(path)


def results(folder: Path, names: list[str]) -> dict[str, object]:
    """The results of a cohort for these pairs, without times and memory: bytes of files, contents of records."""
    found: dict[str, object] = {}
    for path in sorted(p for name in names for p in (folder / name).iterdir() if p.suffix != ".log"):
        key = f"{path.parent.name}/{path.name}"
        if path.suffix != ".json":
            found[key] = path.read_bytes()
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        for varying in ("seconds", "peak_memory_mb", "files"):
            record.pop(varying, None)
        found[key] = record
    return found


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> list[dict[str, str]]:
    """Rows of a list of three pairs."""
    folder = tmp_path_factory.mktemp("phantoms")
    rows = []
    for seed in range(3):
        paths = write_phantom(folder / str(seed), cardiac_pair(seed, (40, 40), (3.6, 3.6)))
        paths.pop("true_ddf")
        rows.append({"name": f"heart{seed}", **paths})
    return rows


@pytest.fixture(scope="session")
def undisturbed(phantoms, tmp_path_factory) -> Path:
    """Output folder of the three pairs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.INFO)  # as the command line does; a call from Python does not touch logging
    register(pairs=write_list(folder / "pairs.json", phantoms), output_dir=str(folder), **QUICK)
    logger.setLevel(level)
    return folder
