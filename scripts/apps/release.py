# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``python -m scripts.apps.release``: the zip of the bundle that the zoo publishes, the same on every machine."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import fire

from ..common.bundle import BUNDLE
from ..common.errors import InputError

NAME = "sam_registration"
MANIFEST = "manifest.sha256"
PUBLISHED = ("configs", "docs", "models", "scripts")  # folders
FILES = ("LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "requirements.txt", "pyproject.toml", "SECURITY.md")
MAX_MB = 25.0  # the zoo's limit for a file of its repository
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can hold


def release(output_dir: str = ".") -> dict[str, str]:
    """Builds NAME_vVERSION.zip from the files of the current commit.

    The zip contains one folder with the bundle and its manifest of hashes, which ``sha256sum -c manifest.sha256``
    checks. Its own hash is written beside it.

    Args:
        output_dir: where the zip goes.

    Returns:
        "zip", its path, and "sha256".

    Raises:
        InputError: the bundle is not a git checkout or has changes that are not committed, the version is not in the
            changelog, or a file is too large for the zoo.
    """
    if _git("status", "--porcelain", "--", *PUBLISHED, *FILES):
        raise InputError(f"{BUNDLE} has changes that are not committed; a release is built from a commit.")
    path = Path(output_dir) / f"{NAME}_v{version()}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    build(path, published_files())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    return {"zip": str(path), "sha256": digest}


def version() -> str:
    """The version of the bundle.

    Raises:
        InputError: the changelog does not mention it.
    """
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    if metadata["version"] not in metadata["changelog"]:
        raise InputError(f"Version {metadata['version']} is not in the changelog of configs/metadata.json; add it.")
    return metadata["version"]


def published_files() -> list[str]:
    """Files of the release, relative to the bundle, in order.

    Raises:
        InputError: the bundle is not a git checkout, or a file is too large.
    """
    tracked = _git("ls-files", "-z").split("\0")
    names = sorted(n for n in tracked if n.split("/")[0] in PUBLISHED or n in FILES)
    for name in names:
        size = (BUNDLE / name).stat().st_size / 1e6
        if size > MAX_MB:
            raise InputError(f"{name} is {size:.0f} MB; the zoo takes {MAX_MB:.0f} MB at most, so make it smaller.")
    return names


def build(path: str | Path, names: Sequence[str]) -> None:
    """Writes the zip; the same files give the same bytes.

    Args:
        path: of the zip.
        names: of files, relative to the bundle.
    """
    contents = {name: (BUNDLE / name).read_bytes() for name in names}
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items()]
    contents[MANIFEST] = "".join(lines).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(f"{NAME}/{name}", EPOCH)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as if written on Unix, everywhere
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=BUNDLE, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise InputError(f"{BUNDLE} is not a git checkout ({done.stderr.strip()}); a release is built from a commit.")
    return done.stdout


def main() -> None:
    """Runs the command; errors end it with one sentence and exit code 1."""
    try:
        fire.Fire(release, name="python -m scripts.apps.release")
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
