"""Version, changelog and citation agree."""

from __future__ import annotations

import json
import re
import tomllib

import yaml


def test_one_version(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    project = tomllib.loads((bundle / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((bundle / "CITATION.cff").read_text(encoding="utf-8"))
    assert metadata["version"] == project["version"] == citation["version"]
    assert str(citation["license"]) == "Apache-2.0"


def test_changelog_lists_every_version_with_the_newest_first(bundle):
    text = (bundle / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", text, re.M)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert [version for version, _ in released] == list(metadata["changelog"])
    assert released[0][0] == metadata["version"]
    assert text.index("## [Unreleased]") < text.index(f"## [{released[0][0]}]")
    assert [day for _, day in released] == sorted((day for _, day in released), reverse=True)
    citation = yaml.safe_load((bundle / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["date-released"]) == released[0][1]


def test_both_papers_are_cited(bundle):
    citation = yaml.safe_load((bundle / "CITATION.cff").read_text(encoding="utf-8"))
    assert {paper["authors"][0]["family-names"]: paper["year"] for paper in citation["references"]} == {
        "Huang": 2024,
        "Xu": 2025,
    }
    model_card = " ".join((bundle / "docs" / "README.md").read_text(encoding="utf-8").lower().split())
    for paper in citation["references"]:
        assert paper["title"].lower() in model_card
