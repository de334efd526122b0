"""The parts of a split."""

from __future__ import annotations

import json

import pytest

from scripts.common.errors import InputError
from scripts.data.splits import split_of


def test_inner_parts_are_disjoint_and_leave_the_validation_alone(tmp_path):
    names = [f"p{k:02d}" for k in range(20)]
    (tmp_path / "acdc.json").write_text(json.dumps({"training": names, "validation": ["v"]}), encoding="utf-8")
    fit, chosen = (split_of(tmp_path, "acdc", f"inner_{part}") for part in ("training", "validation"))
    assert chosen == ["p04", "p13"] and sorted(fit + chosen) == names
    assert split_of(tmp_path, "acdc", "validation") == ["v"] and split_of(tmp_path, "acdc", "training") == names
    with pytest.raises(InputError, match="no list of test subjects"):
        split_of(tmp_path, "acdc", "test")
