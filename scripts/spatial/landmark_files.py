# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Landmark files: CSV with or without column names, 3D Slicer's .fcsv and .mrk.json; read and written, labels kept."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..common.errors import InputError
from .geometry import LPS, Geometry, apply_affine

FRAMES = ("ras", "lps", "voxel")
COLUMNS = (("x", "y", "z"), ("r", "a", "s"), ("l", "p", "s"), ("i", "j", "k"))
COLUMN_FRAMES = {("r", "a", "s"): "ras", ("l", "p", "s"): "lps", ("i", "j", "k"): "voxel"}
SLICER_FRAMES = {"0": "ras", "1": "lps", "2": "voxel", "RAS": "ras", "LPS": "lps", "IJK": "voxel"}
SUFFIXES = (".csv", ".txt", ".fcsv", ".json")


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Named points.

    Attributes:
        points_ras: (L, 3) RAS mm.
        labels: one a point, empty where the file has none.
        frame: the frame in which the file holds them: "ras", "lps" or "voxel".
    """

    points_ras: NDArray
    labels: list[str] = field(default_factory=list)
    frame: str = "ras"


def read_landmark_file(
    path: str | Path, geometry: Geometry | None = None, frame: str | None = None, *, strict: bool = True
) -> Landmarks:
    """Reads landmarks.

    Args:
        path: ``.fcsv`` or ``.mrk.json`` of 3D Slicer, which say their own frame; or text with one landmark a row: 2 or
            3 numbers, or named columns among which are x, y, z (or r, a, s; l, p, s; i, j, k) and perhaps a label.
        geometry: grid of the image they belong to, needed for voxel indices.
        frame: "ras" (default), "lps" or "voxel", for text files whose column names do not say it.
        strict: refuses a frame that contradicts the file; otherwise the file is right.

    Raises:
        InputError: unknown frame, a frame that contradicts the file, unknown columns, a row without numbers.
    """
    if frame is not None and frame not in FRAMES:
        raise InputError(f"Landmark frame must be one of {', '.join(FRAMES)}, got {frame!r}.")
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path} cannot be read: it does not exist; give a file of landmarks.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a landmark file; give CSV, .fcsv or .mrk.json.") from error
    reader = {".fcsv": _read_fcsv, ".json": _read_markups}.get(path.suffix.lower(), _read_text)
    points, labels, said = reader(path, text)
    if strict and said is not None and frame is not None and said != frame:
        raise InputError(f"{path} says that its landmarks are in {said.upper()}, not {frame.upper()}; leave frame out.")
    frame = said or frame or "ras"
    if not len(points):
        raise InputError(f"{path} has no landmarks.")
    if not np.isfinite(points).all():
        raise InputError(f"{path} has landmarks that are NaN or infinite.")
    if frame == "voxel" and geometry is None:
        raise InputError(f"{path} holds voxel indices; name the image they belong to.")
    return Landmarks(_to_ras(points, frame, geometry), labels, frame)


def write_landmark_file(path: str | Path, landmarks: Landmarks, geometry: Geometry | None = None) -> None:
    """Writes landmarks in the frame that they name; the suffix decides the format.

    Args:
        path: ``.fcsv``, ``.json`` (Slicer markups), else CSV with the columns x, y, z and, if there are any, label.
        landmarks: what to write; Slicer files are in LPS whatever the frame is.
        geometry: grid of the image they lie in, needed for voxel indices.
    """
    path = Path(path)
    labels = landmarks.labels or [f"P{k + 1}" for k in range(len(landmarks.points_ras))]
    lps = landmarks.points_ras @ LPS[:3, :3]
    if path.suffix.lower() == ".json":
        points = [
            {"id": str(k + 1), "label": label, "position": [round(float(v), 6) for v in p], "positionStatus": "defined"}
            for k, (label, p) in enumerate(zip(labels, lps))
        ]
        schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
        markups = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
        text = json.dumps({"@schema": schema + "markups-schema-v1.0.3.json#", "markups": [markups]}, indent=2)
        path.write_text(text, encoding="utf-8")
        return
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if path.suffix.lower() == ".fcsv":
            stream.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n")
            stream.write("# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n")
            for k, (label, p) in enumerate(zip(labels, lps)):
                writer.writerow([k + 1, *(f"{v:.6f}" for v in p), 0, 0, 0, 1, 1, 1, 0, label, "", ""])
            return
        points = landmarks.points_ras
        if landmarks.frame == "lps":
            points = lps
        elif landmarks.frame == "voxel":
            if geometry is None:
                raise InputError(f"{path.name}: voxel indices need the image that the landmarks lie in.")
            points = apply_affine(np.linalg.inv(geometry.affine), points)
        writer.writerow(["x", "y", "z", *(["label"] if landmarks.labels else [])])
        for k, p in enumerate(points):
            writer.writerow([*(f"{v:.6f}" for v in p), *([landmarks.labels[k]] if landmarks.labels else [])])


def _to_ras(points: NDArray, frame: str, geometry: Geometry | None) -> NDArray:
    if frame == "voxel":
        return apply_affine(geometry.affine, points)
    return points if frame == "ras" else points @ LPS[:3, :3]


def _read_fcsv(path: Path, text: str):
    frame, columns = "ras", ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label"]
    rows = []
    for line in text.splitlines():
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            if key.strip() == "CoordinateSystem":
                frame = _slicer_frame(path, value.strip())
            elif key.strip() == "columns":
                columns = [c.strip() for c in value.split(",")]
        elif line.strip():
            rows.append(line)
    if not {"x", "y", "z"} <= set(columns):
        raise InputError(f"{path} has the columns {', '.join(columns)}; x, y and z are needed.")
    return *_pick(path, rows, columns, ("x", "y", "z"), 0), frame


def _slicer_frame(path: Path, name: str) -> str:
    if name not in SLICER_FRAMES:
        raise InputError(f"{path} has the coordinate system {name!r}; RAS, LPS or IJK is needed.")
    return SLICER_FRAMES[name]


def _read_markups(path: Path, text: str):
    try:
        markups = json.loads(text)["markups"]
        frames = {_slicer_frame(path, m.get("coordinateSystem", "LPS")) for m in markups}
        points = [p for m in markups for p in m["controlPoints"] if p.get("positionStatus", "defined") == "defined"]
        places = np.array([p["position"] for p in points], np.float64).reshape(-1, 3)
        labels = [str(p.get("label", "")) for p in points]
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not a markups file of 3D Slicer (no control points with positions).") from error
    if len(frames) > 1:
        raise InputError(f"{path} mixes the coordinate systems {', '.join(sorted(frames))}; save them in one.")
    return places, labels, frames.pop() if frames else None


def _read_text(path: Path, text: str):
    lines = [(k, x) for k, x in enumerate(text.splitlines()) if x.strip() and not x.startswith("#")]
    if lines:
        names = [c.strip().strip('"').lower() for c in lines[0][1].replace(";", ",").split(",")]
        if not any(_is_number(c) for c in " ".join(names).split()):
            for wanted in COLUMNS:
                if set(wanted[:2]) <= set(names):
                    present = tuple(c for c in wanted if c in names)
                    rows = [x for _, x in lines[1:]]
                    points, labels = _pick(path, rows, names, present, lines[0][0] + 1)
                    return points, labels, COLUMN_FRAMES.get(wanted)
            if len(names) > 1:
                raise InputError(
                    f"{path} has the columns {', '.join(names)}; x, y, z (or r, a, s; l, p, s; i, j, k) are needed."
                )
            lines = lines[1:]
    points = []
    for number, line in lines:
        cells = line.replace(",", " ").replace(";", " ").split()
        if len(cells) not in (2, 3) or not all(_is_number(c) for c in cells):
            raise InputError(f"{path}, line {number + 1}: {line.strip()!r} is not 2 or 3 numbers.")
        points.append([float(c) for c in cells] + [0.0] * (3 - len(cells)))
    return np.array(points, np.float64).reshape(-1, 3), [], None


def _pick(path: Path, rows: list[str], columns: list[str], wanted: tuple[str, ...], first_line: int):
    """Points and labels of rows with named columns; missing third coordinates are 0."""
    places = [columns.index(c) for c in wanted]
    name = next((columns.index(c) for c in ("label", "name") if c in columns), None)
    points, labels = [], []
    for number, row in enumerate(csv.reader([r.replace(";", ",") for r in rows])):
        cells = [c.strip() for c in row]
        if max(places) >= len(cells) or not all(_is_number(cells[p]) for p in places):
            where = f"{path}, line {first_line + number + 1}: {rows[number].strip()!r}"
            raise InputError(f"{where} has no numbers for {', '.join(wanted)}.")
        points.append([float(cells[p]) for p in places] + [0.0] * (3 - len(places)))
        if name is not None:
            labels.append(cells[name] if name < len(cells) else "")
    return np.array(points, np.float64).reshape(-1, 3), labels


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
