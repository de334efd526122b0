# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The record of a registration, correspondence.json: pairs, metrics, warnings, settings, versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.errors import InputError
from ..common.memory import peak_memory_mb
from ..correspondence.region_pairs import FILES
from ..correspondence.result import Registration
from ..data.pair import Pair
from ..metrics.assembly import TITLES
from ..spatial.geometry import apply_affine

PACKAGES = ("monai", "torch", "numpy", "nibabel", "pytorch-ignite", "segment-anything", "SimpleITK", "scipy")
STILL_VOX, FOLDED_PERCENT, FEW_PAIRS = 0.1, 1.0, 3  # below, above and below which a result is doubtful
REGION_FILES = {
    "exact": [*FILES.values()],
    "quick_view": ["moving_rois.nii.gz", "fixed_rois.nii.gz"],
    "note": "The exact files keep overlapping regions whole; in the quick view small regions cover large ones.",
}


def correspondence_record(
    pair: Pair,
    result: Registration,
    metrics: Mapping[str, Any],
    warnings: list[str],
    parameters: Mapping[str, Any],
    method: Mapping[str, str | None],
) -> dict[str, Any]:
    """The content of correspondence.json; ``metrics`` are those of :func:`scripts.metrics.pair.pair_metrics`.

    To the ``warnings`` about the images and the run, the "doubts" about the result are added. It is "trusted" if the
    field or the initial alignment improves the agreement of the images.
    """
    record = {
        "moving": pair.moving.path,
        "fixed": pair.fixed.path,
        "pairs": [_entry(pair, result, k) for k in range(len(result.matches))],
        "pairs_doubted": result.matches.doubted,
        "regions_found": {"moving": len(result.moving), "fixed": len(result.fixed)},
        "method": dict(method),
        "metrics": dict(metrics),
        "initial_alignment": pair.start.kind,
        "initial_transform_ras_mm": pair.transform.round(6).tolist(),
        "working_grid": {"shape": list(pair.working.shape), "spacing_mm": [round(s, 4) for s in pair.working.spacing]},
        "parameters": dict(parameters),
        "details": result.details,
        "seconds": {k: round(v, 3) for k, v in result.seconds.items()},
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "versions": {p: version(p) for p in PACKAGES} | {"python": platform.python_version()},
    }
    if result.confidence is not None:
        record["confidence"] = {"file": "confidence.nii.gz", "mean": round(float(result.confidence.mean()), 4)}
    if record["pairs"]:
        record["region_files"] = REGION_FILES
    record["trusted"] = not result.discarded or pair.start.trusted
    record["doubts"] = [*pair.start.doubts, *result.doubts, *doubts(record)]
    record["warnings"] = list(dict.fromkeys([*warnings, *record["doubts"]]))
    return record


def _entry(pair: Pair, result: Registration, k: int) -> dict[str, Any]:
    """The entry of pair k."""
    volume = float(np.prod(pair.working.spacing))
    entry: dict[str, Any] = {
        "number": k + 1,
        "similarity": round(float(result.matches.similarity[k]), 4),
        "score": round(float(result.matches.score[k]), 4),
        "certainty": _number(result.matches.certainty, k),
        "motion_mm": _number(result.motion_mm, k),
    }
    for role, to_world in (("moving", pair.transform), ("fixed", np.eye(4))):
        regions, chosen = getattr(result, role), getattr(result.matches, role)[k]
        index = np.zeros(3)
        index[: pair.working.ndim] = regions.centroids[chosen].numpy()
        place = apply_affine(to_world, apply_affine(pair.working.affine, index))
        covered = float(getattr(result, f"{role}_masks")[k].float().sum() / 255 * volume)
        entry[role] = {
            "quality": None if regions.scores is None else round(float(regions.scores[chosen]), 4),
            "mm2" if pair.working.ndim == 2 else "mm3": round(covered, 2),
            "centroid_ras_mm": [round(float(v), 3) for v in place],
        }
    return entry


def _number(values: Tensor | None, k: int) -> float | None:
    return None if values is None else round(float(values[k]), 4)


def doubts(record: Mapping[str, Any]) -> list[str]:
    """Doubts about a result that follow from the numbers of its record, one sentence each."""
    sentences = []
    field = record["metrics"].get("field")
    voxel = min(record["working_grid"]["spacing_mm"])
    if field and field["mean_displacement_mm"] < STILL_VOX * voxel:
        sentences.append(
            f"The mean displacement is {field['mean_displacement_mm']:.3g} mm, less than {STILL_VOX:g} voxel: almost "
            "nothing moved."
        )
    if field and field["folds_percent"] > FOLDED_PERCENT:
        sentences.append(
            f"{field['folds_percent']:.3g} % of the field folds; raise --smoothness or keep --diffeomorphic."
        )
    if 1 < len(record["pairs"]) < FEW_PAIRS:
        sentences.append(
            f"Only {len(record['pairs'])} pairs of regions were found; the field far from them is a guess."
        )
    for key in ("dice", "hd95_mm", "tre_mm"):
        first, last = (record["metrics"].get(key, {}).get(s, {}).get("mean") for s in ("initial", "final"))
        if first is not None and last is not None and (last < first if key == "dice" else last > first):
            sentences.append(f"{TITLES[key]} is worse than before registration: {first:.4g} before, {last:.4g} after.")
    return sentences


def check_finite(result: Registration) -> None:
    """Raises :class:`InputError` for a registration that contains numbers that are not finite."""
    values = {
        "field": result.ddf,
        "similarity of the regions": result.matches.similarity,
        "score of the regions": result.matches.score,
    }
    for name, tensor in values.items():
        if tensor is None:
            continue
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            raise InputError(
                f"The {name} contains {wrong} numbers of {tensor.numel()} that are not finite, so nothing was "
                "written; the weights of the model may be damaged (--checkpoint), or the settings too extreme."
            )
