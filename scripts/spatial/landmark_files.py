# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Landmark files: CSV with or without column names, 3D Slicer's .fcsv and .mrk.json; read and written, labels kept."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..common.errors import InputError
from ..common.files import read_text
from ..common.tables import plain_cell
from .geometry import LPS, Geometry, apply_affine, contains
from .warp import sample

FRAMES = ("ras", "lps", "voxel")
COLUMNS = (("x", "y", "z"), ("r", "a", "s"), ("l", "p", "s"), ("i", "j", "k"))
COLUMN_FRAMES = {("r", "a", "s"): "ras", ("l", "p", "s"): "lps", ("i", "j", "k"): "voxel"}
SLICER_FRAMES = {"0": "ras", "1": "lps", "2": "voxel", "RAS": "ras", "LPS": "lps", "IJK": "voxel"}
FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
MILLIMETRES = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
SUFFIXES = (".csv", ".txt", ".fcsv", ".json")
DECIMAL_COMMA = re.compile(r"\d,\d+\s*(;|\t|$)")  # 1,5;2,5;3,5 as a German or French spreadsheet writes it
SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Named points.

    Attributes:
        points_ras: (L, 3) RAS mm.
        labels: one per point, empty if the file has none.
        frame: of the file: "ras", "lps" or "voxel".
    """

    points_ras: NDArray
    labels: list[str] = field(default_factory=list)
    frame: str = "ras"


def read_landmark_file(
    path: str | Path, geometry: Geometry | None = None, frame: str | None = None, *, strict: bool = True
) -> Landmarks:
    """Reads landmarks; raises :class:`InputError` for anything unclear or unusable.

    Args:
        path: ``.fcsv`` or ``.mrk.json`` of 3D Slicer, which name their own frame; or text with one landmark per row: 2
            or 3 numbers, or named columns with x, y, z (or r, a, s; l, p, s; i, j, k) and optionally a label.
        geometry: grid of the image they belong to, needed for voxel indices.
        frame: "ras" (default), "lps" or "voxel", for text files whose column names do not imply one.
        strict: refuses a frame that contradicts the file; otherwise the frame of the file is used.
    """
    if frame is not None and frame not in FRAMES:
        raise InputError(f"Landmark frame must be one of {', '.join(FRAMES)}, got {frame!r}.")
    path = Path(path)
    text = read_text(path, "a landmark file (CSV, .fcsv or .mrk.json)")
    reader = {".fcsv": _read_fcsv, ".json": _read_markups}.get(path.suffix.lower(), _read_rows)
    points, labels, own = reader(path, text)
    if strict and own is not None and frame is not None and own != frame:
        raise InputError(f"{path} says that its landmarks are in {own.upper()}, not {frame.upper()}; leave frame out.")
    frame = own or frame or "ras"
    if not len(points):
        raise InputError(f"{path} has no landmarks.")
    if not np.isfinite(points).all():
        raise InputError(f"{path} has landmarks that are NaN or infinite.")
    if frame == "voxel" and geometry is None:
        raise InputError(f"{path} holds voxel indices; give the image they belong to.")
    if frame == "voxel":
        points = apply_affine(geometry.affine, points)
    elif frame == "lps":
        points = points @ LPS[:3, :3]
    return Landmarks(points, labels, frame)


def write_landmark_file(path: str | Path, landmarks: Landmarks, geometry: Geometry | None = None) -> None:
    """Writes landmarks; the suffix decides the format.

    Args:
        path: ``.fcsv``, ``.json`` (Slicer markups), otherwise CSV with the columns x, y, z and, if there are labels,
            label.
        landmarks: CSV is written in their own frame; Slicer files are always in LPS.
        geometry: grid of their image, needed for voxel indices.
    """
    path = Path(path)
    labels = landmarks.labels or [f"P{k + 1}" for k in range(len(landmarks.points_ras))]
    lps = landmarks.points_ras @ LPS[:3, :3]
    if path.suffix.lower() == ".json":
        points = [
            {"id": str(k + 1), "label": label, "position": [round(float(v), 6) for v in p], "positionStatus": "defined"}
            for k, (label, p) in enumerate(zip(labels, lps))
        ]
        markups = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
        path.write_text(json.dumps({"@schema": SCHEMA, "markups": [markups]}, indent=2), encoding="utf-8")
        return
    labels = [" ".join(label.split()) for label in labels]  # a line break would end the row
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if path.suffix.lower() == ".fcsv":
            stream.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n")
            stream.write(f"# columns = {FCSV_COLUMNS}\n")
            for k, (label, p) in enumerate(zip(labels, lps)):
                writer.writerow([k + 1, *(f"{v:.6f}" for v in p), 0, 0, 0, 1, 1, 1, 0, label, "", ""])
            return
        points = landmarks.points_ras
        if landmarks.frame == "lps":
            points = lps
        elif landmarks.frame == "voxel":
            if geometry is None:
                raise InputError(f"{path.name}: voxel indices need the image of the landmarks.")
            points = apply_affine(np.linalg.inv(geometry.affine), points)
        writer.writerow(["x", "y", "z", *(["label"] if landmarks.labels else [])])
        for k, p in enumerate(points):
            writer.writerow([*(f"{v:.6f}" for v in p), *([plain_cell(labels[k])] if landmarks.labels else [])])


def _read_fcsv(path: Path, text: str):
    frame, columns, rows = "ras", FCSV_COLUMNS.split(","), []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            if key.strip() == "CoordinateSystem":
                frame = _slicer_frame(path, value.strip())
            elif key.strip() == "columns":
                columns = [c.strip() for c in value.split(",")]
        elif line.strip():
            rows.append((number, line))
    if not {"x", "y", "z"} <= set(columns):
        raise InputError(f"{path} has the columns {', '.join(columns)}; x, y and z are needed.")
    return *_pick(path, rows, columns, ("x", "y", "z"), ","), frame


def _slicer_frame(path: Path, name: str) -> str:
    if name not in SLICER_FRAMES:
        raise InputError(f"{path} has the coordinate system {name!r}; RAS, LPS or IJK is needed.")
    return SLICER_FRAMES[name]


def _read_markups(path: Path, text: str):
    frames, places, labels = set(), [], []
    try:
        for markups in json.loads(text)["markups"]:
            frame, unit = markups.get("coordinateSystem", "LPS"), markups.get("coordinateUnits", "mm")
            frames.add(_slicer_frame(path, frame))
            if unit not in MILLIMETRES and SLICER_FRAMES[frame] != "voxel":
                raise InputError(f"{path} has the unit {unit!r}; {', '.join(MILLIMETRES)} are known.")
            scale = 1.0 if SLICER_FRAMES[frame] == "voxel" else MILLIMETRES[unit]
            for point in markups["controlPoints"]:
                if point.get("positionStatus", "defined") == "defined":
                    places.append(np.array(point["position"], np.float64).reshape(3) * scale)
                    labels.append(str(point.get("label", "")))
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not a markups file of 3D Slicer (no control points with positions).") from error
    if len(frames) > 1:
        raise InputError(f"{path} mixes the coordinate systems {', '.join(sorted(frames))}; save them in one.")
    return np.array(places).reshape(-1, 3), labels, frames.pop() if frames else None


def _read_rows(path: Path, text: str):
    lines = [(k, x) for k, x in enumerate(text.splitlines(), start=1) if x.strip() and not x.startswith("#")]
    for number, line in lines:
        if (";" in line or "\t" in line) and DECIMAL_COMMA.search(line):
            raise InputError(f"{path}, line {number}: {line.strip()!r} has decimal commas; write decimal points.")
    separator = ";" if lines and ";" in lines[0][1] else ","
    if lines:
        names = [c.strip().strip('"').lower() for c in lines[0][1].split(separator)]
        if not any(_is_number(c) for c in " ".join(names).split()):
            for wanted in COLUMNS:
                if set(wanted[:2]) <= set(names):
                    present = tuple(c for c in wanted if c in names)
                    points, labels = _pick(path, lines[1:], names, present, separator)
                    return points, labels, COLUMN_FRAMES.get(wanted)
            if len(names) > 1:
                columns = ", ".join(names)
                raise InputError(f"{path} has the columns {columns}; x, y, z (r, a, s; l, p, s; i, j, k) are needed.")
            lines = lines[1:]
    points = []
    for number, line in lines:
        cells = line.replace(",", " ").replace(";", " ").split()
        if len(cells) not in (2, 3) or not all(_is_number(c) for c in cells):
            raise InputError(f"{path}, line {number}: {line.strip()!r} is not 2 or 3 numbers.")
        points.append([float(c) for c in cells] + [0.0] * (3 - len(cells)))
    return np.array(points, np.float64).reshape(-1, 3), [], None


def _pick(path: Path, rows: list[tuple[int, str]], columns: list[str], wanted: tuple[str, ...], separator: str):
    """Points and labels of numbered rows with named columns; a missing third coordinate is 0."""
    places = [columns.index(c) for c in wanted]
    name = next((columns.index(c) for c in ("label", "name") if c in columns), None)
    points, labels = [], []
    for number, row in rows:
        where = f"{path}, line {number}: {row.strip()[:80]!r}"
        try:
            cells = [c.strip() for c in next(csv.reader([row], delimiter=separator))]
        except csv.Error as error:
            raise InputError(f"{where} is not a row of a table ({error}).") from error
        if len(cells) > len(columns):
            raise InputError(f"{where} has {len(cells)} cells for {len(columns)} columns; quote text with commas.")
        if max(places) >= len(cells) or not all(_is_number(cells[p]) for p in places):
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


def read_landmarks(path: str | Path, geometry: Geometry, frame: str = "ras") -> NDArray:
    """The points (L, 3) RAS mm of a landmark file; ``frame`` is for files that do not name their own."""
    return read_landmark_file(path, geometry, frame, strict=False).points_ras


def fixed_to_moving(
    points_ras: NDArray, ddf: Tensor | None, fixed: Geometry, transform: NDArray | None = None
) -> NDArray:
    """Maps landmarks (L, 3) RAS mm of the fixed image to the moving image.

    Args:
        points_ras: (L, 3) RAS mm in the fixed image.
        ddf: (1, n, *fixed.shape) fixed voxels, linear between voxels and 0 outside, as in ITK; None for no deformation.
        fixed: grid of the field.
        transform: (4, 4) fixed world to moving world, RAS mm.
    """
    index = apply_affine(np.linalg.inv(fixed.affine), points_ras)
    if ddf is not None:
        n = fixed.ndim
        places = torch.as_tensor(index[:, :n].T.reshape(1, n, -1, *[1] * (n - 1)), dtype=ddf.dtype, device=ddf.device)
        shift = sample(ddf, places)[0].reshape(n, -1).T.double().cpu().numpy()
        index[:, :n] += shift * contains(fixed, points_ras)[:, None]
    points = apply_affine(fixed.affine, index)
    return points if transform is None else apply_affine(transform, points)
