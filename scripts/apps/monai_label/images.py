# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Images and labels that a request may name: those of the studies, and uploads. Never any other file of the server."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.utils.sessions import Sessions

from ...common.errors import InputError
from .errors import NotFoundError

AUTO = "auto"
PATIENT = ("PatientID", "patient_id", "patient")  # where the information of an image names its patient
UNKNOWN = "UNK"  # MONAI Label's value for what a DICOM series does not say


@dataclass(frozen=True)
class Images:
    """The images and the label of one request, as files of the server.

    Attributes:
        image: the image that the result belongs to.
        image_id: its name in the studies; None for an upload.
        other: the second image, None for tasks of one image.
        other_id: its name in the studies; None for an upload.
        label: label map of the second image, None if it has none.
        names: value by name of the structures of the label that have names.
    """

    image: str
    image_id: str | None
    other: str | None = None
    other_id: str | None = None
    label: str | None = None
    names: Mapping[str, int] = field(default_factory=dict)


def find_images(request: Mapping[str, Any], store: Datastore, sessions: Sessions | None, *, pair: bool) -> Images:
    """Resolves the images that a request names.

    Args:
        request: "image", an image of the studies or the path of an upload; "other_image", an image of the studies or
            "auto"; "other_session", an upload made with ``PUT /session/``; "label", an uploaded label map of the
            other image, otherwise the stored label with the tag "other_label_tag".
        store: the studies.
        sessions: MONAI Label's uploads.
        pair: whether the task needs a second image.

    Raises:
        NotFoundError: an image or upload does not exist, or lies outside the studies and the upload folders.
        InputError: no second image can be chosen.
    """
    image, image_id = _image(request.get("image"), store, sessions)
    if not pair:
        return Images(image, image_id)
    if request.get("other_session"):
        other, other_id = _session(str(request["other_session"]), sessions), None
    else:
        name = request.get("other_image") or AUTO
        name = nearest(store, image_id) if name == AUTO else name
        if name not in store.list_images():
            raise NotFoundError(f"The studies contain no image {name!r}; give other_image one of their names.")
        other, other_id = store.get_image_uri(name), name
    if Path(other) == Path(image):
        raise InputError(f"other_image is the image itself ({request['image']}); name another one.")
    label, names = _label(request, store, other_id)
    return Images(image, image_id, other, other_id, label, names)


def nearest(store: Datastore, image_id: str | None) -> str:
    """The image that most likely shows the same patient.

    Images of the same patient come first, where the studies record patients. Among them, or among all, the one with the
    most similar name is taken: the longest common beginning, then difflib's ratio.

    Raises:
        InputError: the image is an upload, or the only one of the studies.
    """
    if image_id is None:
        raise InputError("For an uploaded image no second image can be chosen automatically; give other_image.")
    others = sorted(i for i in store.list_images() if i != image_id)
    if not others:
        raise InputError(f"{image_id} is the only image of the studies; upload a second one and give other_session.")
    patient = _patient(store, image_id)
    same = [i for i in others if patient is not None and _patient(store, i) == patient]

    def likeness(name: str) -> tuple[int, float]:
        beginning = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(name, image_id)))
        return beginning, difflib.SequenceMatcher(None, name, image_id).ratio()

    return max(same or others, key=likeness)


def _patient(store: Datastore, image_id: str) -> str | None:
    info = store.get_image_info(image_id)
    return next((str(info[key]) for key in PATIENT if info.get(key, UNKNOWN) != UNKNOWN), None)


def _image(name: Any, store: Datastore, sessions: Sessions | None) -> tuple[str, str | None]:
    if isinstance(name, str) and name in store.list_images():
        return store.get_image_uri(name), name
    if isinstance(name, str) and is_upload(name, sessions):
        return name, None
    raise NotFoundError(f"The studies contain no image {name!r}; GET /datastore/ lists their names.")


def _session(name: str, sessions: Sessions | None) -> str:
    found = sessions.get_session(name) if sessions is not None and Path(name).name == name else None
    if found is None:
        raise NotFoundError(f"There is no upload {name!r}; make one with PUT /session/ and give its session_id.")
    return found.image


def _label(request: Mapping[str, Any], store: Datastore, other_id: str | None) -> tuple[str | None, dict[str, int]]:
    given = request.get("label")
    if isinstance(given, str) and is_upload(given, None):
        return given, _names(request.get("label_info"))
    tag = str(request.get("other_label_tag") or "final")
    label_id = store.get_label_by_image_id(other_id, tag) if other_id else None
    if not label_id:
        return None, {}
    info = store.get_label_info(label_id, tag)
    return store.get_label_uri(label_id, tag), _names(info.get("label_info") or info.get("params"))


def _names(info: Any) -> dict[str, int]:
    """Value by name from what clients store with a label: a list of {"name", "idx"}, or "label_names"."""
    if isinstance(info, Mapping):
        info = info.get("label_info") or info.get("label_names")
    if isinstance(info, Mapping):
        return {str(k): int(v) for k, v in info.items() if isinstance(v, int)}
    entries = info if isinstance(info, list) else []
    return {str(e["name"]): int(e["idx"]) for e in entries if isinstance(e, Mapping) and {"name", "idx"} <= e.keys()}


def is_upload(path: str, sessions: Sessions | None) -> bool:
    """Whether a path is a file that MONAI Label received: its own temporary file, or part of a session."""
    if not os.path.isabs(path) or not os.path.exists(path):
        return False
    real = Path(path).resolve()
    if sessions is not None and real.is_relative_to(Path(sessions.store_path).resolve()):
        return True
    temporary = Path(tempfile.gettempdir()).resolve()
    return real.parent == temporary and real.name.startswith(tempfile.gettempprefix())
