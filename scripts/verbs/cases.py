# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""What is to be evaluated: one case, a CSV or JSON list of cases, or the dataset file of a Learn2Reg task."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from ..common.errors import InputError
from ..common.files import there
from ..spatial.transform_files import transform_names

SPLITS = ("eval_pairs", "registration_val", "registration_test")
POINT_FOLDERS = ("landmarks", "keypoints")
RECORD = "correspondence.json"  # of a result folder


@dataclass(frozen=True)
class Case:
    """One registered pair.

    Attributes:
        name: of the pair.
        transforms: files in the order in which a fixed point passes through them; a result folder counts as its field.
        moving: moving image, or None.
        fixed: fixed image, or None.
        moving_label: labels on the moving grid, or None.
        fixed_label: labels on the fixed grid, or None.
        moving_landmarks: points in the moving image, or None.
        fixed_landmarks: the same points in the fixed image, or None.
    """

    name: str
    transforms: str
    moving: str | None = None
    fixed: str | None = None
    moving_label: str | None = None
    fixed_label: str | None = None
    moving_landmarks: str | None = None
    fixed_landmarks: str | None = None

    def files(self) -> list[str]:
        """Every file or folder that the case names."""
        rest = [getattr(self, f.name) for f in fields(self) if f.name not in ("name", "transforms")]
        return [*(n.removeprefix("inverse:") for n in transform_names(self.transforms)), *(r for r in rest if r)]

    def check(self) -> None:
        """Raises :class:`InputError` for pairs of which only one half is named."""
        for role in ("label", "landmarks"):
            given = [r for r in ("moving", "fixed") if getattr(self, f"{r}_{role}")]
            if len(given) == 1:
                raise InputError(f"Case {self.name}: only the {given[0]}_{role} is named; both or none are needed.")

    def check_files(self) -> None:
        """Raises :class:`InputError` for missing files."""
        missing = [f for f in self.files() if not there(f)]
        if missing:
            raise InputError(f"Case {self.name}: {missing[0]} does not exist; correct its path.")


def read_cases(path: str | Path) -> list[Case]:
    """Reads a list of cases.

    Args:
        path: CSV with a header, or a JSON list of objects; the columns are those of :class:`Case`, of which only
            ``transforms`` must be there. Paths are relative to the file.

    Raises:
        InputError: unreadable, no cases, unknown columns, names that are not unique, or one half of a pair.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{path} cannot be read; give a CSV or JSON list of cases.") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(r, Mapping) for r in rows):
        raise InputError(f"{path} holds no list of cases.")
    known = [f.name for f in fields(Case)]
    unknown = [str(k) for r in rows for k in r if k not in known]
    if unknown:
        raise InputError(f"{path} has the column {unknown[0]!r}; the columns are {', '.join(known)}.")
    cases = []
    for number, row in enumerate(rows):
        given = {k: v.strip() if isinstance(v, str) else v for k, v in row.items() if v}
        if not given.get("transforms"):
            raise InputError(f"{path}, case {number + 1} names no transforms.")
        name = str(given.pop("name", number + 1))
        for key, value in given.items():
            if not (isinstance(value, str) or (key == "transforms" and _all_text(value))):
                raise InputError(f"{path}, case {number + 1} has {value!r} as {key}; give a path.")
        chain = ",".join(_beside(path, n) for n in transform_names(given.pop("transforms")))
        cases.append(Case(name, chain, **{k: _beside(path, v) for k, v in given.items()}))
    return _checked(path, cases)


def learn2reg_cases(dataset: str | Path, folder: str | Path) -> list[Case]:
    """The pairs of a Learn2Reg task, with their fields from a submission folder.

    Args:
        dataset: the task's JSON, with "eval_pairs" or "registration_val", pairs of "fixed" and "moving" image relative
            to the file. Labels and key points lie beside ``images*`` in ``labels*``, ``landmarks*`` or ``keypoints*``.
        folder: ``disp_FFFF_MMMM.nii.gz`` or ``.npz``, or ``disp_FFFF_NNNN_MMMM_NNNN`` with the modalities.

    Raises:
        InputError: no such pairs, or a field that is missing.
    """
    dataset, folder = Path(dataset), Path(folder)
    try:
        content = json.loads(dataset.read_text(encoding="utf-8-sig"))
        pairs = next(content[k] for k in SPLITS if content.get(k))
        images = [(dataset.parent / p["fixed"], dataset.parent / p["moving"]) for p in pairs]
    except (OSError, ValueError, AttributeError, KeyError, TypeError, StopIteration, RecursionError) as error:
        raise InputError(f"{dataset} has none of {', '.join(SPLITS)} with pairs of fixed and moving images.") from error
    cases = []
    for fixed, moving in images:
        name = pair_name(fixed, moving)
        full = f"{case_numbers(fixed)}_{case_numbers(moving)}"
        found = [folder / f"disp_{stem}{end}" for stem in dict.fromkeys((name, full)) for end in (".nii.gz", ".npz")]
        there = [f for f in found if f.exists()]
        if not there:
            raise InputError(f"{folder} has no field disp_{name}.nii.gz or .npz for {fixed.name} and {moving.name}.")
        named = {}
        for kind, folders, ending in (("label", ("labels",), ".nii.gz"), ("landmarks", POINT_FOLDERS, ".csv")):
            for other in folders:
                both = [_sibling(image, other, ending) for image in (fixed, moving)]
                if all(b.exists() for b in both):
                    named |= {f"fixed_{kind}": str(both[0]), f"moving_{kind}": str(both[1])}
                    break
        cases.append(Case(name, str(there[0]), str(moving), str(fixed), **named))
    return _checked(dataset, cases)


def case_numbers(image: str | Path) -> str:
    """The case number of a Learn2Reg file name, with the modality where it has one: 0012 or 0012_0001.

    Raises:
        InputError: the name does not end in four digits.
    """
    found = re.search(r"(\d{4}(?:_\d{4})?)\.[a-z.]+$", Path(image).name.lower())
    if not found:
        raise InputError(f"{Path(image).name} does not end in a case number of four digits, as Learn2Reg's names do.")
    return found[1]


def pair_name(fixed: str | Path, moving: str | Path) -> str:
    """``FFFF_MMMM`` of a pair: fixed case first."""
    return f"{case_numbers(fixed)[:4]}_{case_numbers(moving)[:4]}"


def _sibling(image: Path, folder: str, ending: str) -> Path:
    """``labelsTr/x.nii.gz`` of ``imagesTr/x.nii.gz``."""
    return image.parent.parent / image.parent.name.replace("images", folder) / image.name.replace(".nii.gz", ending)


def _all_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _beside(path: Path, name: str) -> str:
    mark = "inverse:" if name.startswith("inverse:") else ""
    return mark + str(path.parent / name.removeprefix("inverse:"))


def _checked(path: Path, cases: list[Case]) -> list[Case]:
    names = Counter(c.name for c in cases)
    twice = next((name for name, number in names.items() if number > 1), None)
    if twice is not None:
        raise InputError(f"{path} has two cases called {twice!r}; give each its own name.")
    for case in cases:
        case.check()
    return cases
