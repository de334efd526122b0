# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``evaluate``: tables of a set of registrations, the initial value beside the final one, and Learn2Reg submissions."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..common.errors import InputError
from ..common.files import check_outputs, read_text, whole_file
from ..data.reader import read_volume
from ..metrics.tables import flat_metrics
from ..spatial.files import limited
from ..spatial.learn2reg import LAYOUTS, write_learn2reg
from ..workflow.cohort.case import FAILED, REGISTERED
from ..workflow.cohort.pairs import SUMMARIES
from ..workflow.cohort.summary import summarise, write_summary
from ..workflow.guard import sole_writer
from .cases import COLUMNS, Case, case_files, check_files, checked, learn2reg_cases, pair_name, read_cases
from .measure import measure_case

logger = logging.getLogger(__name__)

FORMATS = ("nii.gz", "npz")


@limited
def evaluate(
    cases: str | Path | None = None,
    output_dir: str | Path = "evaluation",
    transforms: str | Path | Sequence[str | Path] | None = None,
    moving: str | None = None,
    fixed: str | None = None,
    moving_label: str | None = None,
    fixed_label: str | None = None,
    moving_landmarks: str | None = None,
    fixed_landmarks: str | None = None,
    points_frame: str | None = None,
    fields: str | None = None,
    learn2reg: bool = False,
    structures: Sequence[int] | None = None,
    names: str | dict[int, str] | None = None,
    submission: str | None = None,
    submission_format: str = "nii.gz",
    layout: str = "last",
    progress: bool = True,
    max_image_gb: float = 4.0,
) -> dict[str, Any]:
    """Measures one or many registrations and writes the tables of a cohort.

    Args:
        cases: CSV or JSON list of cases, see docs/fields.md; with ``fields`` the dataset JSON of a Learn2Reg task.
            None for the one case that the following options name.
        output_dir: gets summary.csv, summary.json and report.html, see docs/cohorts.md.
        transforms: of one case: files or a result folder.
        moving: moving image of one case.
        fixed: fixed image of one case.
        moving_label: its labels.
        fixed_label: labels of the fixed image.
        moving_landmarks: its landmarks.
        fixed_landmarks: the same landmarks in the fixed image.
        points_frame: of landmarks in text files: "ras" (default), "lps" or "voxel".
        fields: folder with a Learn2Reg submission.
        learn2reg: Learn2Reg's rules (docs/fields.md); on with ``fields``.
        structures: label values to compare; None takes all.
        names: structure names by label value, or a JSON file of them.
        submission: folder that also gets every field in Learn2Reg's format.
        submission_format: "nii.gz" or "npz".
        layout: of npz: "last" (X, Y, Z, 3) or "first" (3, X, Y, Z).
        progress: shows a bar.
        max_image_gb: largest image or field in memory, in 1e9 bytes; a larger one is refused before it is read.

    Returns:
        the content of summary.json; "pairs" has a row for each case, with keys such as "dice/mean/final".

    Raises:
        InputError: the input cannot be used; one sentence says why. A case that cannot be read is listed as failed and
            does not stop the others, unless all fail.
    """
    if submission_format not in FORMATS or layout not in LAYOUTS:
        raise InputError(
            f"submission_format must be one of {', '.join(FORMATS)} and layout one of {', '.join(LAYOUTS)}, "
            f"got {submission_format!r} and {layout!r}."
        )
    if structures is not None and not (
        isinstance(structures, Sequence) and all(isinstance(value, Integral) for value in structures)
    ):
        raise InputError(f"structures must be a list of label values such as [1, 2], got {structures!r}.")
    if cases is None:
        if not transforms:
            raise InputError("Nothing to evaluate: give a list of cases, or --transforms with labels or landmarks.")
        chain = transforms if isinstance(transforms, (str, Path)) else ",".join(str(t) for t in transforms)
        given = (str(chain), moving, fixed, moving_label, fixed_label, moving_landmarks, fixed_landmarks)
        todo = checked([{"name": "1", **{key: value for key, value in zip(COLUMNS, given) if value}}])
    else:
        todo = learn2reg_cases(cases, fields) if fields else read_cases(cases)
    titles = _names(names)
    inputs = {f for case in todo for f in case_files(case)} | {str(f) for f in (cases, names) if _is_path(f)}
    outputs = [Path(output_dir) / name for name in SUMMARIES]
    if submission:
        outputs += [
            _submitted(submission, case, submission_format) for case in todo if {"moving", "fixed"} <= case.keys()
        ]
    check_outputs(outputs, inputs)
    began, rows = time.perf_counter(), []
    options = {"points_frame": points_frame, "learn2reg": learn2reg or fields is not None, "structures": structures}
    for case in tqdm(todo, desc="evaluate", unit="case", disable=not progress):
        row = {key: case[key] for key in ("name", "moving", "fixed") if key in case}
        try:
            check_files(case)
            metrics, steps, grid = measure_case(case, **options)
            if submission:
                with whole_file(_submitted(submission, case, submission_format), case_files(case)) as part:
                    write_learn2reg(part, steps, grid, read_volume(case["moving"], frame=0).geometry, layout)
            rows.append({**row, "status": REGISTERED, **flat_metrics(metrics, titles)})
        except InputError as error:
            if len(todo) == 1:
                raise
            rows.append({**row, "status": FAILED, "error": str(error)})
            logger.warning("case %s: %s", case["name"], error)
    if all(row["status"] == FAILED for row in rows):
        raise InputError(f"None of {len(todo)} cases could be evaluated; the first: {rows[0]['error']}")
    summary = summarise(rows, {"seconds": round(time.perf_counter() - began, 1)})
    with sole_writer(output_dir) as folder:  # the tables of two runs must not mix
        write_summary(folder, summary)
    return summary


def _submitted(folder: str, case: Case, ending: str) -> Path:
    """The file of a case in a Learn2Reg submission."""
    if not {"fixed", "moving"} <= case.keys():
        raise InputError(f"Case {case['name']}: a submission is named after the images; name moving and fixed.")
    return Path(folder) / f"disp_{pair_name(case['fixed'], case['moving'])}.{ending}"


def _names(names: str | dict | None) -> dict[str, str]:
    if _is_path(names):
        text = read_text(names, "a JSON file of structure names")
        try:
            names = dict(json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{names} is not a JSON file of structure names by label value.") from error
    if not isinstance(names or {}, dict):
        raise InputError(f"names must be a dictionary of structure names by label value, got {names!r}.")
    return {str(k): str(v) for k, v in (names or {}).items()}


def _is_path(value: object) -> bool:
    return isinstance(value, (str, Path))
