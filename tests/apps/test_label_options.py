"""Options of the MONAI Label app, from the configs to a client's panel and back; kept results."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from scripts.apps.monai_label.kept import Kept, content_hash
from scripts.apps.monai_label.options import CORRESPOND, HIDDEN, chosen, offered, points
from scripts.common.bundle import CONFIGS
from scripts.common.errors import InputError
from scripts.workflow.method import METHODS
from scripts.workflow.options import KINDS
from scripts.workflow.run import PATHS


@pytest.fixture(scope="module")
def entries() -> dict:
    return offered(list(METHODS.values()))


def test_every_option_is_offered_but_none_that_names_a_file(entries, bundle):
    assert not set(entries) & (set(PATHS) - {"init"})
    assert entries["epsilon"] == 0.8 and entries["max_pairs"] == "" and entries["window"][0] == "auto"
    assert isinstance(entries["diffeomorphic"], bool)
    config = json.loads((bundle / "configs" / "samreg.json").read_text(encoding="utf-8"))
    for name in ("points_per_side", "smoothness", "image_weight", "linking", "min_area", "max_area", "sam"):
        assert name in config and name in entries


@pytest.mark.parametrize("configs", [["samreg.json"], ["inference.json"], ["masks.json"], list(METHODS.values())])
def test_a_panel_has_every_option_of_its_command(configs):
    keys = {key for name in configs for key in ConfigParser.load_config_file(str(CONFIGS / name))}
    assert set(offered(configs)) == keys & set(KINDS) - HIDDEN


def test_the_panel_of_correspond_has_what_its_config_refers_to():
    config = ConfigParser.load_config_file(str(CONFIGS / "correspond.json"))
    used = set(re.findall(r"@(\w+)", json.dumps(config["inferer"]))) - HIDDEN
    assert used <= set(CORRESPOND) and set(offered(["correspond.json", "samreg.json"], CORRESPOND)) == set(CORRESPOND)


def test_defaults_are_not_passed_on(entries):
    assert chosen(entries, {}) == {}
    assert chosen(entries, json.loads(json.dumps(entries))) == {}, "a client sends back what it was offered"


def test_values_come_as_the_config_takes_them(entries):
    request = {"epsilon": "0.7", "points_per_side": "8", "diffeomorphic": "false", "max_pairs": "3", "slice_axis": 2}
    moved_to_front = ["ct", *[w for w in entries["window"] if w != "ct"]]  # how Slicer marks a choice in a list
    wanted = {"epsilon": 0.7, "points_per_side": 8, "diffeomorphic": False, "max_pairs": 3, "slice_axis": 2}
    assert chosen(entries, {**request, "window": moved_to_front}) == {**wanted, "window": "ct"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fill_nan", "$__import__('os').system('true')"),
        ("max_pairs", "@evaluator"),
        ("slice_axis", "../../etc"),
        ("structures", ["$exit()"]),
        ("structures", {"%x": 1}),
        ("init", "/etc/passwd"),
        ("window", "$'ct'"),
        ("epsilon", "$0.5"),
        ("diffeomorphic", "maybe"),
    ],
)
def test_code_paths_and_wrong_kinds_are_refused(entries, key, value):
    with pytest.raises(InputError, match=key):
        chosen(entries, {key: value})


def test_points_are_numbers():
    assert points([[1, 2, "3"]], "foreground") == [[1.0, 2.0, 3.0]]
    assert points(None, "background") == []
    with pytest.raises(InputError, match="foreground"):
        points([["$exit()"]], "foreground")


def test_a_result_is_made_once_and_a_failure_leaves_nothing(tmp_path):
    kept, calls = Kept(str(tmp_path / "kept")), []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "x").write_text("1", encoding="utf-8")

    assert kept.get("a", make) == kept.get("a", make) and len(calls) == 1
    with pytest.raises(ZeroDivisionError):
        kept.get("b", lambda folder: 1 / 0)
    assert [p.name for p in kept.folder.iterdir()] == ["a"]


def test_the_longest_unused_result_goes_first(tmp_path):
    kept = Kept(str(tmp_path), max_gb=25 / 1e9)
    for age, key in enumerate("abc"):
        path = kept.get(key, lambda folder: (folder / "x").write_bytes(b"0" * 10) and None)
        os.utime(path, (1000 + age, 1000 + age))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c"]


def test_content_decides(tmp_path):
    (tmp_path / "a").write_text("x", encoding="utf-8")
    (tmp_path / "b").write_text("x", encoding="utf-8")
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b") != content_hash(tmp_path)
