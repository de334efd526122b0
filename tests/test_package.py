"""The installed package ``samreg``, beside another package called ``scripts`` and away from the bundle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.common import bundle as place

CODE = """
import logging, sys
import scripts
assert scripts.OTHER
import samreg
before = [*logging.getLogger().handlers], sys.excepthook
record = samreg.register({moving!r}, {fixed!r}, {out!r}, points_per_side=4, dense=False, overview=False, progress=False)
assert "pairs" in record
assert before == ([*logging.getLogger().handlers], sys.excepthook)
assert not [name for name in sys.modules if name.startswith("scripts.")]
"""


def run(words: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        words, cwd=folder, env=os.environ | variables, capture_output=True, encoding="utf-8", timeout=600
    )


@pytest.fixture(scope="module")
def installed(bundle, tmp_path_factory) -> Path:
    """A folder with the package as pip installs it."""
    source, target = tmp_path_factory.mktemp("source") / "bundle", tmp_path_factory.mktemp("installed")
    ignore = shutil.ignore_patterns(".git", "__pycache__", "runs", "output", "tests", "*.pth")
    shutil.copytree(bundle, source, ignore=ignore)
    words = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    done = run([*words, str(target), str(source)], target)
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.slow
def test_installed_package_registers_beside_another_scripts(installed, heart_files, tmp_path):
    other = tmp_path / "other" / "scripts"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("OTHER = True\n", encoding="utf-8")
    code = CODE.format(moving=heart_files["moving"], fixed=heart_files["fixed"], out=str(tmp_path / "out"))
    path = os.pathsep.join([str(tmp_path / "other"), str(installed)])
    done = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "correspondence.json").exists()


@pytest.mark.slow
def test_installed_command(installed, tmp_path):
    done = run([str(installed / "bin" / "samreg"), "register", "--help"], tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0 and done.stdout.startswith("usage: samreg register"), done.stderr
    assert (installed / "samreg" / "bundle" / "models" / "compact_sam.pt").exists()


def test_bundle_runs_from_any_folder(bundle, tmp_path):
    """By its path, where no package is called scripts; an error must still be one sentence of the command."""
    done = run([sys.executable, str(bundle / "scripts"), "compose", "gone.h5", "o.nii.gz"], tmp_path, PYTHONPATH="")
    assert done.returncode == 1 and done.stderr.startswith("error: gone.h5 does not exist"), done.stderr


def test_names_in_configs(monkeypatch):
    config = {"_target_": "scripts.a.B", "imports": ["$from scripts.c import d"], "path": "/x/scripts.y", "n": 1}
    assert place.own_names(config) == config
    monkeypatch.setattr(place, "NAME", "samreg")
    assert place.own_names(config) == {
        "_target_": "samreg.a.B", "imports": ["$from samreg.c import d"], "path": "/x/scripts.y", "n": 1,
    }  # fmt: skip
