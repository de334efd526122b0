"""The house rules: floors only look down, files stay short, configs name real things."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
STOREY = {"errors": 0, "fingerprint": 0, "weights": 1, "spatial": 1, "losses": 2, "data": 3, "sam": 4, "anatomy": 4,
          "roi": 5, "network": 5, "metrics": 6, "engine": 7, "report": 7, "cohort": 8, "tools": 8, "benchmarks": 9,
          "__main__": 10}  # fmt: skip


def sources() -> list[Path]:
    return sorted((ROOT / "scripts").rglob("*.py"))


def floor_of(path: Path) -> str:
    return path.relative_to(ROOT / "scripts").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_floors_only_look_down(path):
    floor = floor_of(path)
    if floor == "__init__":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scripts."):
            other = node.module.split(".")[1]
            assert other == floor or STOREY[other] < STOREY[floor], f"{floor} imports {node.module}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_and_quiet(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert text.startswith("# Copyright (c) SAM registration contributors.")
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Assert), f"assert in {path.name}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called != "print", f"print in {path.name}"
        if called == "torch.load":
            assert any(k.arg == "weights_only" for k in node.keywords), f"torch.load in {path.name}"


def test_requirements_and_metadata_name_the_same_packages():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = {line.split(">")[0].split("=")[0].strip().lower() for line in lines if line and not line.startswith("#")}
    metadata = json.loads((ROOT / "configs" / "metadata.json").read_text(encoding="utf-8"))
    named = {name.lower() for name in metadata["required_packages_version"]} | {"monai", "torch", "numpy"}
    assert listed == named


def test_every_shipped_weight_is_small_and_logged():
    log = (ROOT / "docs" / "training_log.md").read_text(encoding="utf-8")
    for path in (ROOT / "models").glob("*.pt"):
        assert path.stat().st_size < 16 * 2**20
        assert path.name in log


def test_large_files_are_complete():
    for entry in yaml.safe_load((ROOT / "large_files.yml").read_text(encoding="utf-8"))["large_files"]:
        assert set(entry) == {"path", "url", "hash_val", "hash_type"}
        assert len(entry["hash_val"]) == 64 and entry["hash_type"] == "sha256"
