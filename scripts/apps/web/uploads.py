# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Uploaded files: their names on the server, and zips with DICOM series."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

import pydicom
from pydicom.errors import InvalidDicomError

from ...common.errors import InputError
from ...spatial.files import MAX_GB, readable

MAX_FILES = 10_000  # of one zip


def clean_name(name: str) -> str:
    """A file name without folders, spaces and special characters; the ending, which gives the format, is kept."""
    name = re.sub(r"[^\w.\-]+", "_", Path(name).name).lstrip(".")
    return name[-100:] or "image"


def unpack_series(archive: Path, folder: Path, max_gb: float = MAX_GB) -> list[Path]:
    """Unpacks the DICOM series of a zip, each into its own folder.

    The files get new names, so no name in the zip can lead out of the folder.

    Args:
        archive: the zip.
        folder: where to unpack; made if missing.
        max_gb: most 1e9 bytes unpacked.

    Returns:
        the folders, by series number.

    Raises:
        InputError: not a zip, or a damaged one; too much in it; links, encrypted files, or names that lead out of it;
            no DICOM series.
    """
    found: dict[tuple[int, str], Path] = {}
    with readable(archive, "a zip"), zipfile.ZipFile(archive) as content:
        entries = [e for e in content.infolist() if not e.is_dir()]
        for entry in entries:
            _check(archive, entry)
        size = sum(e.file_size for e in entries) / 1e9
        if len(entries) > MAX_FILES or size > max_gb:
            raise InputError(
                f"{archive.name} unpacks to {len(entries)} files of {size:.1f} GB, and the limits are {MAX_FILES} "
                f"files and {max_gb:g} GB; zip a single series."
            )
        for number, entry in enumerate(entries):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{number:05d}.dcm"
            with content.open(entry) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
            series = _series(path)
            if series is None:  # a report, a DICOMDIR, a file of the operating system
                path.unlink()
                continue
            place = found.setdefault(series, folder / f"series_{len(found) + 1}")
            place.mkdir(exist_ok=True)
            path.rename(place / path.name)
    if not found:
        raise InputError(f"{archive.name} contains no DICOM series; upload other images unzipped.")
    return [found[key] for key in sorted(found)]


def _check(archive: Path, entry: zipfile.ZipInfo) -> None:
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise InputError(f"{archive.name} contains {entry.filename!r}, which leads out of it; zip the series again.")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise InputError(f"{archive.name} contains the link {entry.filename!r}; zip the files themselves.")
    if entry.flag_bits & 1:
        raise InputError(f"{archive.name} is encrypted; zip the series without a password.")


def _series(path: Path) -> tuple[int, str] | None:
    """Number and UID of the series that a file belongs to; None if it is no DICOM image."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SeriesNumber"])
        return int(header.get("SeriesNumber") or 0), str(header["SeriesInstanceUID"].value)
    except (InvalidDicomError, KeyError):
        return None
    except Exception as error:  # a damaged header makes pydicom raise nearly anything
        raise InputError(
            f"The zip contains a damaged DICOM file, number {int(path.stem) + 1}; export it again."
        ) from error
