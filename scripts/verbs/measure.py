# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Every number of one registered case from its files: overlap, surface distances, landmark error, regularity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..common.errors import InputError
from ..common.staging import complete_result
from ..correspondence.moved_regions import region_dice
from ..correspondence.region_pairs import FILES as REGION_FILES
from ..correspondence.region_pairs import read_region_pairs
from ..data.reader import Volume, read_volume
from ..metrics.assembly import common_values, field_metrics, label_metrics, landmark_metrics, plain
from ..spatial.chain import Field, Linear, Step, map_points
from ..spatial.geometry import Geometry, usable, voxel_displacement
from ..spatial.landmark_files import read_landmark_file
from ..spatial.resampling import resample_image
from ..spatial.transform_files import RECORD_NAME, as_field, read_chain, transform_names
from .cases import Case
from .warp import whole_numbers

LEARN2REG_MARGIN = 2  # voxels that the evaluation of Learn2Reg leaves out at every border


def measure_case(
    case: Case, *, points_frame: str | None = None, learn2reg: bool = False, structures: Sequence[int] | None = None
) -> tuple[dict, list[Step], Geometry]:
    """Measures one case.

    Args:
        case: what to read, see :mod:`scripts.verbs.cases`.
        points_frame: of landmarks in text files.
        learn2reg: fields and landmarks are voxels, images are compared voxel by voxel whatever their headers say, and
            the Jacobian determinant leaves out two voxels at every border.
        structures: label values to compare; None takes those that both label maps have.

    Returns:
        metrics ready for JSON ("dice", "hd95_mm" and more by stage and structure; "tre_mm" by stage; "region_dice" by
        stage and pair, of a result folder; "field"), the chain, and the fixed grid.
    """
    labels = {r: _label(case.get(f"{r}_label")) for r in ("fixed", "moving")}
    grids = {r: _grid(case.get(r), labels[r]) for r in ("fixed", "moving")}
    steps = read_chain(case["transforms"], grids["fixed"], grids["moving"], learn2reg=learn2reg)
    fixed = grids["fixed"] or next((s.grid for s in steps if isinstance(s, Field)), None)
    if fixed is None:
        raise InputError(f"Case {case['name']}: an affine has no grid; name the fixed image or its labels.")
    moving = grids["moving"] or fixed
    # Learn2Reg compares voxel by voxel: before registration, equal indices are the same place.
    start: list[Step] = [Linear(moving.affine @ np.linalg.inv(fixed.affine))] if learn2reg else []
    stages = {"initial": start, **_aligned(case), "final": steps}
    result: dict = {}
    if labels["fixed"] is not None and labels["moving"] is not None:
        _overlap(result, stages, labels["fixed"], labels["moving"], structures)
    if "fixed_landmarks" in case:
        points_frame = "voxel" if learn2reg and points_frame is None else points_frame
        points = [
            read_landmark_file(case[f"{r}_landmarks"], g, points_frame).points_ras
            for r, g in (("fixed", fixed), ("moving", moving))
        ]
        if len(points[0]) != len(points[1]):
            raise InputError(f"Case {case['name']} has {len(points[0])} fixed and {len(points[1])} moving landmarks.")
        result |= landmark_metrics(((s, map_points(chain, points[0])) for s, chain in stages.items()), points[1])
    folder = complete_result(transform_names(case["transforms"])[0], RECORD_NAME)
    if not learn2reg and folder is not None and (folder / REGION_FILES["fixed"]).is_file():
        result |= region_dice(read_region_pairs(folder), stages)
    field = as_field(steps, fixed)
    ddf = torch.from_numpy(np.ascontiguousarray(voxel_displacement(field.u_lps, fixed)))[None]
    result |= field_metrics(ddf, fixed.spacing, LEARN2REG_MARGIN if learn2reg else 0)
    return plain(result), steps, fixed


def _overlap(
    result: dict, stages: dict[str, list[Step]], fixed: Volume, moving: Volume, structures: Sequence[int] | None
) -> None:
    """Adds the measures of label maps at every stage."""
    values = common_values(moving.array, fixed.array)
    if structures is not None:
        values = [v for v in values if v in set(structures)]
    if not values:
        raise InputError(f"{fixed.path} and {moving.path} have no structure in common to compare; check --structures.")

    def moved(chain: list[Step]) -> NDArray:
        grids = moving.geometry, fixed.geometry
        return resample_image(moving.array, *grids, chain, interpolation="nearest", fill=0)[0][0]

    stages_moved = ((stage, moved(chain)) for stage, chain in stages.items())
    result |= label_metrics(stages_moved, fixed.array[0], values, fixed.geometry.spacing)


def _aligned(case: Case) -> dict[str, list[Step]]:
    """The stage after the initial alignment, if a result folder records one."""
    names = transform_names(case["transforms"])
    record = (complete_result(names[0], RECORD_NAME) or Path(names[0])) / RECORD_NAME if len(names) == 1 else Path()
    if not record.is_file():
        return {}
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        matrix = np.asarray(content.get("initial_transform_ras_mm", np.eye(4)), float)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{record} is damaged; give the field in its folder instead of the folder.") from error
    if matrix.shape != (4, 4) or not usable(matrix):
        raise InputError(f"{record} holds no usable initial_transform_ras_mm; give the field in its folder instead.")
    return {} if np.allclose(matrix, np.eye(4)) else {"aligned": [Linear(matrix)]}


def _label(path: str | None) -> Volume | None:
    if not path:
        return None
    volume = read_volume(path, label=True)
    return replace(volume, array=whole_numbers(volume))


def _grid(path: str | None, label: Volume | None) -> Geometry | None:
    if path:
        return read_volume(path, frame=0).geometry
    return label.geometry if label is not None else None
