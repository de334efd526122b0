# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""One folder for each user, removed when the user leaves."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...common.errors import InputError
from .jobs import INPUTS, RESULTS, ROLES, Images
from .slices import Shown
from .uploads import clean_name

FRAMES = tuple(f"{role}_frame" for role in ROLES)


@dataclass(eq=False)
class Session:
    """The images and results of one user.

    Attributes:
        token: stands for the session in addresses; it cannot be guessed.
        folder: contains all files of this user.
        images: inputs of the registration, relative to the folder.
        shown: the images as the page shows them, by role.
        note: about the last result, HTML.
        reported: whether there is a report of a registration.
    """

    token: str
    folder: Path
    images: Images = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    note: str = ""
    reported: bool = False

    @property
    def report(self) -> Path:
        """The page of the registration."""
        return self.folder / RESULTS / "registration" / "report.html"

    def archive(self) -> Path:
        """Everything that was computed, as a new zip in the folder."""
        path = self.folder / f"{secrets.token_hex(4)}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
            for file in sorted((self.folder / RESULTS).rglob("[!.]*")):
                if file.is_file():
                    content.write(file, file.relative_to(self.folder / RESULTS))
        return path

    def receive(self, upload: str | Path) -> str:
        """Moves an uploaded file into the folder; returns its path relative to it.

        Raises:
            InputError: it is gone, because another user uploaded the same file at the same moment.
        """
        place = self.folder / INPUTS / secrets.token_hex(4)
        place.mkdir(parents=True)
        path = place / clean_name(Path(upload).name)
        try:
            os.replace(upload, path)
        except FileNotFoundError as error:
            raise InputError(f"{path.name} did not arrive; upload it again.") from error
        return path.relative_to(self.folder).as_posix()

    def update(self, images: Images, shown: Mapping[str, Shown]) -> None:
        """Replaces images; results, labels and files of the old ones are removed."""
        kept = {k: v for k, v in self.images.items() if k.split("_")[0] not in shown and k in (*ROLES, *FRAMES)}
        self.images, self.shown = {**kept, **images}, {**self.shown, **shown}
        self.note, self.reported = "", False
        shutil.rmtree(self.folder / RESULTS, ignore_errors=True)
        for image in self.shown.values():
            image.show_regions(None)
        used = {Path(str(path)).parts[1] for path in self.images.values() if isinstance(path, str)}
        for old in (self.folder / INPUTS).iterdir():
            if old.name not in used:
                shutil.rmtree(old, ignore_errors=True)


class Sessions:
    """The sessions of a server; each has a folder in ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._found: dict[str, Session] = {}
        self._ended: set[str] = set()  # a job that was waiting when its user left must not begin a new session
        self._lock = threading.Lock()

    def get(self, name: str) -> Session:
        """The session of a browser tab, begun if it is new.

        Raises:
            InputError: it has ended.
        """
        with self._lock:
            if name in self._ended:
                raise InputError("This session has ended; reload the page.")
            if name not in self._found:
                token = secrets.token_urlsafe(16)
                self._found[name] = Session(token, self.root / token)
                self._found[name].folder.mkdir()
            return self._found[name]

    def by_token(self, token: str) -> Session | None:
        """The session whose results have this token."""
        with self._lock:
            return next((s for s in self._found.values() if secrets.compare_digest(s.token, token)), None)

    def remove(self, name: str, before: Callable[[Path], None] = lambda folder: None) -> None:
        """Ends a session and deletes its folder; ``before`` is called with the folder first."""
        with self._lock:
            session = self._found.pop(name, None)
            self._ended.add(name)
        if session is not None:
            before(session.folder)
            shutil.rmtree(session.folder, ignore_errors=True)
