# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``evaluate``: tables of a set of registrations, the initial value beside the final one, and Learn2Reg submissions."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..common.errors import InputError
from ..common.files import check_not_input, whole_file
from ..data.reader import read_volume
from ..data.tables import write_csv
from ..metrics.assembly import LABEL_METRICS, STAGES
from ..spatial.learn2reg import LAYOUTS, write_learn2reg
from ..workflow.guard import sole_writer
from .cases import Case, learn2reg_cases, pair_name, read_cases
from .measure import measure_case

logger = logging.getLogger(__name__)

STRUCTURED = tuple(LABEL_METRICS)
MEANS_ONLY = ("region_dice", "tre_mm")  # their parts are not the same in every case
FIELD_KEYS = ("folds_percent", "sdlogj", "sdlogj_plain", "mean_displacement_mm", "max_displacement_mm")
DEFINITIONS = {
    "dice": "2 |A and B| / (|A| + |B|), labels moved with the nearest neighbour; structures that both images have",
    "hd95_mm": "larger of the two directed 95th percentiles of the border distances, mm of the fixed image",
    "assd_mm": "mean border distance of both directions, mm of the fixed image",
    "centroid_mm": "distance of the centroids of a structure, mm of the fixed image",
    "region_dice": "Dice of the exact regions of each pair, of result folders; the structure is the number of the pair",
    "tre_mm": "distance of the mapped fixed landmark from the moving landmark, mm",
    "sdlogj": "standard deviation of log(clamp(det + 3, 1e-9, 1e9)), the convention of Learn2Reg",
    "sdlogj_plain": "standard deviation of log(clamp(det, 1e-9, 1e9))",
    "folds_percent": "share of voxels whose Jacobian determinant is not positive",
    "mean +- sd": "over cases; each case counts once, with the mean of its structures where no structure is named",
}
TABLES = ("metrics.json", "cases.csv", "structures.csv", "summary.csv")
FORMATS = ("nii.gz", "npz")


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
) -> dict:
    """Measures one registration or many, and writes tables.

    Args:
        cases: CSV or JSON list of cases, see docs/fields.md; with ``fields`` the dataset JSON of a Learn2Reg task.
            None for the one case that the following options name.
        output_dir: gets metrics.json, cases.csv, structures.csv and summary.csv.
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
        submission: folder that also gets every field in Learn2Reg's form.
        submission_format: "nii.gz" or "npz".
        layout: of npz: "last" (X, Y, Z, 3) or "first" (3, X, Y, Z).
        progress: shows a bar.

    Returns:
        what metrics.json holds: "cases", "failed", "summary", "definitions".

    Raises:
        InputError: whatever cannot be used, in one sentence. A case that cannot be read is listed under "failed" and
            does not stop the others, unless all fail.
    """
    if submission_format not in FORMATS or layout not in LAYOUTS:
        raise InputError(
            f"submission_format must be one of {', '.join(FORMATS)} and layout one of {', '.join(LAYOUTS)}, "
            f"got {submission_format!r} and {layout!r}."
        )
    if cases is None:
        if not transforms:
            raise InputError("Nothing to evaluate: give a list of cases, or --transforms with labels or landmarks.")
        chain = transforms if isinstance(transforms, (str, Path)) else ",".join(str(t) for t in transforms)
        one = Case("1", str(chain), moving, fixed, moving_label, fixed_label, moving_landmarks, fixed_landmarks)
        one.check()
        todo = [one]
    else:
        todo = learn2reg_cases(cases, fields) if fields else read_cases(cases)
    learn2reg = learn2reg or fields is not None
    titles = _names(names)
    inputs = {str(f) for case in todo for f in case.files()} | {str(f) for f in (cases, names) if _is_path(f)}
    for output in TABLES:
        check_not_input(Path(output_dir) / output, sorted(inputs))
    results, failed = {}, {}
    for case in tqdm(todo, desc="evaluate", unit="case", disable=not progress):
        try:
            case.check_files()
            metrics, steps, grid = measure_case(
                case, points_frame=points_frame, learn2reg=learn2reg, structures=structures
            )
            if submission:
                _submit(submission, case, steps, grid, submission_format, layout)
        except InputError as error:
            if len(todo) == 1:
                raise
            failed[case.name] = str(error)
            logger.warning("case %s: %s", case.name, error)
            continue
        results[case.name] = metrics
    if not results:
        raise InputError(f"None of {len(todo)} cases could be evaluated; the first: {next(iter(failed.values()))}")
    report = {
        "cases": results,
        "failed": failed,
        "summary": summarise(results, titles),
        "definitions": DEFINITIONS,
    }
    with sole_writer(output_dir) as folder:  # the tables of two runs must not mix
        write_tables(folder, report, titles)
    return report


def summarise(results: dict[str, dict], titles: dict[str, str] | None = None) -> list[dict]:
    """Rows of mean, sd and n over cases, for every metric, structure and stage.

    Args:
        results: metrics by case.
        titles: structure names by label value, as text.
    """
    rows = []
    for key in (*STRUCTURED, *MEANS_ONLY):
        values: dict[tuple[str, str], list[float]] = {}
        for metrics in results.values():
            for stage, scores in metrics.get(key, {}).items():
                for structure, value in scores.items():
                    if key in MEANS_ONLY and structure != "mean":
                        continue
                    if value is not None:
                        values.setdefault((structure, stage), []).append(value)
        order = sorted(values, key=lambda k: (k[0] != "mean", _number(k[0]), STAGES.index(k[1])))
        rows += [_row(key, (titles or {}).get(s, s), stage, values[s, stage]) for s, stage in order]
    for key in FIELD_KEYS:
        known = [m["field"][key] for m in results.values() if m["field"].get(key) is not None]
        rows.append(_row(key, "", "final", known))
    return rows


def summary_text(report: dict) -> str:
    """The summary as a table to read: initial beside final, mean +- sd over the cases."""
    lines, table = [], {}
    for row in report["summary"]:
        cell = f"{row['mean']:.3f} ± {row['sd']:.3f}" if row["n"] else "-"
        table.setdefault((row["metric"], row["structure"]), {})[row["stage"]] = cell
    stages = [s for s in STAGES if any(s in cells for cells in table.values())]
    for (metric, structure), cells in table.items():
        shown = "   ".join(f"{stage} {cells[stage]}" for stage in stages if stage in cells)
        lines.append(f"{metric} {structure}".strip().ljust(28) + shown)
    lines.append(f"{len(report['cases'])} cases" + (f", {len(report['failed'])} failed" if report["failed"] else ""))
    return "\n".join(lines)


def write_tables(folder: Path, report: dict, titles: dict[str, str]) -> None:
    """Writes metrics.json, cases.csv, structures.csv and summary.csv."""
    write_csv(folder / "summary.csv", report["summary"])
    wide, long = [], []
    for name, metrics in report["cases"].items():
        row: dict = {"case": name}
        for key in (*STRUCTURED, *MEANS_ONLY):
            for stage in metrics.get(key, {}):
                row[f"{key}_{stage}"] = metrics[key][stage]["mean"]
        wide.append(row | {key: metrics["field"].get(key) for key in FIELD_KEYS})
        for structure in next(iter(metrics.get("dice", {}).values()), {}):
            if structure == "mean":
                continue
            entry = {"case": name, "label": structure, "structure": titles.get(structure, structure)}
            for key in STRUCTURED:
                entry |= {f"{key}_{stage}": metrics[key][stage][structure] for stage in metrics[key]}
            long.append(entry)
    write_csv(folder / "cases.csv", wide)
    if long:
        write_csv(folder / "structures.csv", long)
    # Last: where it stands, the tables stand too.
    with whole_file(folder / "metrics.json") as path:
        path.write_text(json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False), encoding="utf-8")


def _submit(folder: str, case: Case, steps, grid, submission_format: str, layout: str) -> None:
    if not (case.fixed and case.moving):
        raise InputError(f"Case {case.name}: a submission is named after the images; name moving and fixed.")
    path = Path(folder) / f"disp_{pair_name(case.fixed, case.moving)}.{submission_format}"
    with whole_file(path, case.files()) as part:
        write_learn2reg(part, steps, grid, read_volume(case.moving, frame=0).geometry, layout)


def _row(metric: str, structure: str, stage: str, values: list[float]) -> dict:
    mean, sd = (float(np.mean(values)), float(np.std(values))) if values else (None, None)
    return {"metric": metric, "structure": structure, "stage": stage, "mean": mean, "sd": sd, "n": len(values)}


def _names(names: str | dict | None) -> dict[str, str]:
    if isinstance(names, (str, Path)):
        try:
            names = dict(json.loads(Path(names).read_text(encoding="utf-8-sig")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{names} is no JSON file of structure names by label value.") from error
    return {str(k): str(v) for k, v in (names or {}).items()}


def _is_path(value: object) -> bool:
    return isinstance(value, (str, Path))


def _number(text: str) -> float:
    return float(text) if text.lstrip("-").isdigit() else -1.0
