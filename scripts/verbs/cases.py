# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The cases that ``evaluate`` measures: a CSV or JSON list, or the dataset file of a Learn2Reg task.

A case is a dict with "name", "transforms" (files in the order in which a fixed point passes through them, separated by
commas; a result folder counts as its field) and, where they are given, the other keys of ``COLUMNS``, all paths.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from ..common.errors import InputError
from ..common.files import read_text, there
from ..data.pair_rows import FILES, pair_rows
from ..spatial.transform_files import INVERSE, transform_names

COLUMNS = ("transforms", *(key for key in FILES if not key.endswith(("_mask", "_exclude"))))
SPLITS = ("eval_pairs", "registration_val", "registration_test")
FOLDERS = {"label": ("labels",), "landmarks": ("landmarks", "keypoints")}  # beside images*, of a Learn2Reg task
Case = dict[str, str]


def case_files(case: Case) -> list[str]:
    """Every file or folder that a case names."""
    chain = [name.removeprefix(INVERSE) for name in transform_names(case["transforms"])]
    return [*chain, *(case[key] for key in COLUMNS[1:] if key in case)]


def check_files(case: Case) -> None:
    """Raises :class:`InputError` for missing files."""
    missing = [f for f in case_files(case) if not there(f)]
    if missing:
        raise InputError(f"Case {case['name']}: {missing[0]} does not exist; correct its path.")


def checked(cases: list[Case], path: str | Path = "the command") -> list[Case]:
    """The cases; raises :class:`InputError` for a name used twice, or where only one half of a pair is named."""
    twice = [name for name, number in Counter(c["name"] for c in cases).items() if number > 1]
    if twice:
        raise InputError(f"{path} has two cases called {twice[0]!r}; give each its own name.")
    for case in cases:
        for kind in ("label", "landmarks"):
            given = [key for key in (f"moving_{kind}", f"fixed_{kind}") if key in case]
            if len(given) == 1:
                raise InputError(f"Case {case['name']}: only the {given[0]} is named; both or none are needed.")
    return cases


def read_cases(path: str | Path) -> list[Case]:
    """Reads a list with the columns name and ``COLUMNS``, see :func:`scripts.data.pair_rows.pair_rows`."""
    rows = pair_rows(path, COLUMNS, needed=("transforms",))
    return checked([{"name": str(number), **row} for number, row in enumerate(rows, start=1)], path)


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
    text = read_text(dataset, "the dataset JSON of a Learn2Reg task")
    try:
        content = json.loads(text)
        pairs = next(content[k] for k in SPLITS if content.get(k))
        images = [(dataset.parent / p["fixed"], dataset.parent / p["moving"]) for p in pairs]
    except (ValueError, AttributeError, KeyError, TypeError, StopIteration, RecursionError) as error:
        raise InputError(f"{dataset} has none of {', '.join(SPLITS)} with pairs of fixed and moving images.") from error
    cases = []
    for fixed, moving in images:
        name = pair_name(fixed, moving)
        full = f"{case_numbers(fixed)}_{case_numbers(moving)}"
        choices = [folder / f"disp_{stem}{end}" for stem in dict.fromkeys((name, full)) for end in (".nii.gz", ".npz")]
        field = next((f for f in choices if f.exists()), None)
        if field is None:
            raise InputError(f"{folder} has no field disp_{name}.nii.gz or .npz for {fixed.name} and {moving.name}.")
        case = {"name": name, "transforms": str(field), "moving": str(moving), "fixed": str(fixed)}
        for kind, others in FOLDERS.items():
            for other in others:
                both = [
                    _sibling(image, other, ".csv" if kind == "landmarks" else ".nii.gz") for image in (fixed, moving)
                ]
                if all(b.exists() for b in both):
                    case |= {f"fixed_{kind}": str(both[0]), f"moving_{kind}": str(both[1])}
                    break
        cases.append(case)
    return checked(cases, dataset)


def case_numbers(image: str | Path) -> str:
    """The case number in a Learn2Reg file name, with the modality if it has one: 0012 or 0012_0001."""
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
