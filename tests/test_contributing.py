"""The extension points of docs/contributing.md: each test adds one, as the page describes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts.verbs import register as verb


def example(bundle: Path, title: str, language: str) -> str:
    """The code block of a section of docs/contributing.md."""
    page = (bundle / "docs" / "contributing.md").read_text(encoding="utf-8")
    [section] = [part for part in re.split(r"^## ", page, flags=re.M) if part.startswith(f"{title}\n")]
    return re.findall(rf"```{language}\n(.*?)```", section, re.S)[0]


@pytest.fixture
def own_bundle(bundle, tmp_path, monkeypatch) -> Path:
    """A folder that the verbs take for the bundle, with copies of its configs."""
    for source in (bundle / "configs").rglob("*.json"):
        copy = tmp_path / source.relative_to(bundle)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    monkeypatch.setattr(verb, "BUNDLE", tmp_path)
    return tmp_path


def test_a_preset_is_one_file(bundle, own_bundle):
    values = json.loads(example(bundle, "A preset", "json"))
    (own_bundle / "configs" / "presets" / "mine.json").write_text(json.dumps(values), encoding="utf-8")
    configs, _ = verb.resolve("a.nii.gz", "b.nii.gz", "out", preset="mine")
    assert configs == ["samreg.json", "presets/mine.json"]
    known = json.loads((own_bundle / "configs" / "samreg.json").read_text(encoding="utf-8"))
    assert set(values) <= set(known)
