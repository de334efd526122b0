"""With any file names and any links, results are written to the output folder and nowhere else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

from scripts import register
from scripts.common.errors import InputError
from scripts.common.lock import NAME as LOCK
from scripts.common.lock import locked
from scripts.workflow.cohort import case
from scripts.workflow.run import literal
from tests.test_commands import run_main
from tests.workflow.cohort.conftest import QUICK, write_list

# Spaces, quotes, letters of many scripts; syntax of the command line, MONAI's configs, HTML and patterns.
NAMES = [
    "a b's", 'ä "患" é', "$home", "@fixed", "%macro", "case#1", "1e3", "[a], b", "<b>&amp", "a..b", "*?{x}", "None ",
    "a::b",
]  # fmt: skip
QUICKLY = [f"--{k}={json.dumps(v) if isinstance(v, dict) else v}" for k, v in QUICK.items()]


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("turn", range(len(NAMES)))
def test_unusual_file_names_are_kept(phantoms, tmp_path, monkeypatch, turn):
    """Relative names, so that each is read from its first character; only the output folder appears."""
    moving, fixed, out = (NAMES[(turn + k) % len(NAMES)] for k in (0, 1, 2))
    monkeypatch.chdir(tmp_path)
    for role, name in (("moving", f"{moving}.nii.gz"), ("fixed", f"{fixed}.nii.gz")):
        shutil.copy(phantoms[0][role], name)
    before = everything_below(tmp_path)
    words = ["register", f"{moving}.nii.gz", f"{fixed}.nii.gz", "--output_dir", out, *QUICKLY]
    if turn == 1:
        words += ["--overview=True", "--inverse=True"]
    assert run_main(monkeypatch, *words) == 0
    after = everything_below(tmp_path)
    assert before.items() <= after.items()
    new = set(after) - set(before)
    assert {f"{out}/correspondence.json", f"{out}/ddf.nii.gz"} <= new and all(n.startswith(f"{out}/") for n in new)
    record = json.loads(after[f"{out}/correspondence.json"])
    assert (record["moving"], record["fixed"]) == (f"{moving}.nii.gz", f"{fixed}.nii.gz")
    if turn % 4 == 0:
        # The verbs that use the results read the same names.
        assert run_main(monkeypatch, "warp", f"{moving}.nii.gz", f"{out}/again.nii.gz", out) == 0
        moved, again = (everything_below(tmp_path)[f"{out}/{name}.nii.gz"] for name in ("moved", "again"))
        assert len(moved) and len(again)
        assert run_main(monkeypatch, "compose", out, f"{out}/{fixed}.h5") == 0
        assert (tmp_path / out / f"{fixed}.h5").is_file()


def test_a_list_with_unusual_names(phantoms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [n for n in NAMES if not set(n) & set('"<>*?:') and not n.endswith(" ")]
    rows = []
    for name in names[:4]:
        for role in ("moving", "fixed"):
            shutil.copy(phantoms[0][role], f"{role} {name}.nii.gz")
        rows.append({"name": name, "moving": f"moving {name}.nii.gz", "fixed": f"fixed {name}.nii.gz"})
    write_list(Path("#list.json"), rows)
    before = everything_below(tmp_path)
    assert run_main(monkeypatch, "register", "--pairs", "#list.json", "--output_dir", "out #1", *QUICKLY) == 0
    new = set(everything_below(tmp_path)) - set(before)
    assert all(n.startswith("out #1/") for n in new)
    assert {f"out #1/{name}/case.json" for name in names[:4]} <= new


def test_masks_of_unusual_names(heart_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        shutil.copy(heart_files["moving"], f"{name}.nii.gz")
        shutil.copy(heart_files["moving_label"], f"{name}_gt.nii.gz")
    Path("list.json").write_text(json.dumps([f"{name}.nii.gz" for name in NAMES]), encoding="utf-8")
    words = ["masks", "list.json", "--names", "LV", "--output_dir", "#out", "--values", "{'LV': 3}"]
    assert run_main(monkeypatch, *words, "--source", "files:{folder}/{stem}_gt.nii.gz", "--progress", "False") == 0
    found = {p.name for p in Path("#out").iterdir() if p.is_file()}
    assert found == {f"{name}_masks.{end}" for name in NAMES for end in ("nii.gz", "json")}
    assert run_main(monkeypatch, *words, "--source", "files:{folder}/{stem}_gt.nii.gz", "--images", "x") != 0


@pytest.mark.parametrize("text", [*NAMES, "'", '"""', "\\x23#", "a\nb#"])
def test_literal_is_the_text(text):
    parser = ConfigParser({"value": literal(text), "other": "@value"})
    assert parser.get_parsed_content("other") == text


def test_links_in_the_output_folder_are_replaced_not_followed(phantoms, tmp_path):
    """Every file that a registration or a page writes already exists as a link of that name."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    options = {**QUICK, "overview": True, "inverse": True}
    pair = (phantoms[0]["moving"], phantoms[0]["fixed"])
    register(*pair, str(out), **options)
    names = [p.name for p in out.iterdir()]
    shutil.rmtree(out)
    out.mkdir()
    elsewhere.mkdir()
    for name in names:
        (elsewhere / name).write_text("mine")
        (out / name).symlink_to(elsewhere / name)
    register(*pair, str(out), **options)
    assert set(everything_below(elsewhere).values()) == {b"mine"}
    assert {p.name for p in out.iterdir()} == set(names) and not any(p.is_symlink() for p in out.iterdir())


@pytest.mark.parametrize("kind", ["result", "empty", "dangling"])
def test_a_case_folder_that_is_a_link(phantoms, undisturbed, tmp_path, kind):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    if kind == "result":
        shutil.copytree(undisturbed / "heart0", elsewhere)
        (elsewhere / "ddf.nii.gz").write_bytes(b"mine")  # so it is not done
    elif kind == "empty":
        elsewhere.mkdir()
    (out / "heart0").symlink_to(elsewhere)
    for name in ("summary.csv", "summary.json", "report.html"):
        (tmp_path / name).write_text("mine")
        (out / name).symlink_to(tmp_path / name)
    before = everything_below(elsewhere) if elsewhere.exists() else None
    summary = register(pairs=write_list(tmp_path / "list.json", phantoms[:1]), output_dir=str(out), **QUICK)
    assert summary["registered"] == 1
    assert not (out / "heart0").is_symlink() and (out / "heart0" / "case.json").is_file()
    assert (everything_below(elsewhere) if elsewhere.exists() else None) == before
    assert all((tmp_path / n).read_text() == "mine" for n in ("summary.csv", "summary.json", "report.html"))
    assert not (out / case.RUNNING).exists()


def test_a_foreign_folder_behind_a_link_is_refused(phantoms, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis.txt").write_text("mine")
    (tmp_path / "out" / "heart0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="exists and is not a result of a cohort"):
        register(pairs=write_list(tmp_path / "list.json", phantoms[:1]), output_dir=str(tmp_path / "out"), **QUICK)
    assert everything_below(tmp_path / "elsewhere") == {"thesis.txt": b"mine"}


def test_the_place_of_work_and_the_lock_are_not_followed(phantoms, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    (elsewhere / "heart0").mkdir(parents=True)
    (elsewhere / "heart0" / "thesis.txt").write_text("mine")
    (elsewhere / "old.old").mkdir()
    (out / case.RUNNING).symlink_to(elsewhere)
    register(pairs=write_list(tmp_path / "list.json", phantoms[:1]), output_dir=str(out), **QUICK)
    assert everything_below(elsewhere) == {"heart0/thesis.txt": b"mine"} and (elsewhere / "old.old").is_dir()
    (tmp_path / "notes").write_text("mine")
    (out / LOCK).symlink_to(tmp_path / "notes")
    with pytest.raises(InputError, match="Nothing can be written to"), locked(out):
        pass
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize("name", ["../up", "a/../b", "/up", "..", "summary.csv", "Report.html"])
def test_the_name_of_a_pair_cannot_leave_the_folder(phantoms, tmp_path, name):
    listed = write_list(tmp_path / "list.json", [{**phantoms[0], "name": name}])
    with pytest.raises(InputError, match="cannot be the name of a folder"):
        register(pairs=listed, output_dir=str(tmp_path / "out"), **QUICK)
    assert os.listdir(tmp_path) in (["list.json"], ["out", "list.json"], ["list.json", "out"])
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


def test_a_picture_with_dots_in_its_path(tmp_path):
    """The paths of the images pass through the parent folder; results stay in the output folder."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 50), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "..p..png")
    path = str(tmp_path / "in" / ".." / "in" / "..p..png")
    register(path, path, str(tmp_path / "in" / ".." / "out"), **QUICK)
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out"} and len(list((tmp_path / "in").iterdir())) == 1
