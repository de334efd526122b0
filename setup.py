# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``pip install .``: the tree ``scripts`` is installed as the package ``samreg``, with configs and weights inside it.

The repository keeps one copy of everything: the build copies the folders that a bundle has beside its code.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CODE = ROOT / "scripts"
BUNDLE = ("configs", "models", "docs")
DATA = [
    path.relative_to(CODE).as_posix()
    for path in CODE.rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc") and "logs" not in path.parts
]


class BuildWithBundle(build_py):
    """Puts the folders of the bundle into ``samreg/bundle``, where :mod:`samreg.common.bundle` finds them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # then the code lies in the bundle already
            return
        for name in BUNDLE:
            target = Path(self.build_lib) / "samreg" / "bundle" / name
            shutil.copytree(ROOT / name, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.pth", "figures"))
        shutil.copy(ROOT / "LICENSE", Path(self.build_lib) / "samreg" / "bundle")


setup(
    package_dir={"samreg": "scripts"},
    packages=["samreg", *(f"samreg.{name}" for name in find_packages("scripts"))],
    package_data={"samreg": DATA},
    install_requires=[
        line for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
    ],
    cmdclass={"build_py": BuildWithBundle},
)
