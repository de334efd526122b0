# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Everything a registration leaves in its output folder, written completely or not at all."""

from __future__ import annotations

import json
import logging
import platform
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from numpy.typing import NDArray
from torch import Tensor

from ..common.errors import InputError
from ..common.memory import peak_memory_mb
from ..correspondence.result import Registration
from ..data.pair import Pair
from ..data.writer import as_stored, save_nifti, save_picture
from ..metrics.pair import pair_metrics
from ..report.case_page import case_page, slice_pictures
from ..report.overview import overview
from ..report.panels import panels
from ..spatial.chain import Field
from ..spatial.fields import write_field
from ..spatial.geometry import Geometry, apply_affine, resample, resample_map, world_displacement
from ..spatial.inversion import invert_chain
from ..spatial.landmarks import fixed_to_moving, write_landmarks
from .guard import check_output_dir

logger = logging.getLogger(__name__)

PACKAGES = ("monai", "torch", "numpy", "nibabel", "pytorch-ignite", "segment-anything", "SimpleITK", "scipy")
RECORD = "correspondence.json"
MASKS = [f"{role}_{what}" for role in ("moving", "fixed") for what in ("rois", "regions")]
OUTPUTS = {
    *("overview.png", "report.html", "ddf.nii.gz", "inverse_ddf.nii.gz", "moved.nii.gz", "moved.png"),
    *("moved_label.nii.gz", "moved_landmarks.csv"),
    *(name + kind for name in MASKS for kind in (".nii.gz", ".png")),
}


class SaveRegistration(Transform):
    """Writes the results of one pair; the postprocessing of the evaluator.

    Args:
        output_dir: folder of the results; made if missing. A pair's own "output_dir" comes first.
        parameters: what to record of the run, JSON-ready.
        overview: also draw ``overview.png`` and write ``report.html``.
        inverse: also write the inverse field, which pulls the fixed image to the moving grid.
        method: to record: "name", and "reason" where it was chosen, not asked for.

    Input: a dict with "image" (1, 2C, *shape), "pair" (:class:`Pair`) and "pred" (:class:`Registration`); what it has
    under "warnings" is recorded before the warnings of the registration.

    Output: the same dict with "metrics" and "files". In the folder: ``moving_rois.nii.gz`` and ``fixed_rois.nii.gz``
    (equal numbers are pairs), ``correspondence.json``, and with a dense field ``ddf.nii.gz`` (LPS mm),
    ``moved.nii.gz`` and, where given, ``moved_label.nii.gz`` and ``moved_landmarks.csv``; on request
    ``inverse_ddf.nii.gz``, whose error is in the metrics under "inverse". Pictures also come as PNG.
    Where no pair was found, all regions of each image are written as ``moving_regions.nii.gz`` and
    ``fixed_regions.nii.gz``, numbered independently.
    """

    def __init__(
        self,
        output_dir: str,
        parameters: Mapping[str, Any] | None = None,
        overview: bool = True,
        inverse: bool = False,
        method: Mapping[str, str | None] | None = None,
    ) -> None:
        self.output_dir, self.parameters = Path(output_dir), dict(parameters or {})
        self.overview, self.inverse, self.method = overview, inverse, dict(method or {})

    def __call__(self, data: Mapping) -> dict:
        pair: Pair = data["pair"]
        result: Registration = data["pred"]
        began = time.perf_counter()
        output_dir = check_output_dir(data.get("output_dir") or self.output_dir)
        said = [*data.get("warnings", ()), *result.warnings]
        for sentence in said:
            logger.warning(sentence)
        ddf = pair.on_fixed_grid(result.ddf)
        metrics = pair_metrics(pair, ddf)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=output_dir) as folder:
            try:
                part = Path(folder)
                self._regions(part, pair, result)
                if ddf is not None:
                    self._dense(part, pair, ddf, metrics)
                if self.overview:
                    image = torch.as_tensor(data["image"][0]).cpu()
                    drawn = panels(image, result, pair.working.spacing)
                    overview(part / "overview.png", drawn, self._title(pair, metrics))
                result.seconds["write"] = time.perf_counter() - began
                # The record is moved last: where it stands, everything it names stands too.
                record = self._record(pair, result, metrics, said)
                text = json.dumps(record, indent=2, allow_nan=False)
                (part / RECORD).write_text(text, encoding="utf-8")
                if self.overview:
                    pictures = slice_pictures(image, result, pair.working.spacing)
                    report = case_page(record, pictures, drawn)
                    (part / "report.html").write_text(report, encoding="utf-8")
                names = sorted(p.name for p in part.iterdir() if p.name != RECORD)
                if (output_dir / RECORD).exists():  # what an earlier run left must not pass for a result of this one
                    for name in OUTPUTS - set(names):
                        (output_dir / name).unlink(missing_ok=True)
                for name in [*names, RECORD]:
                    (part / name).replace(output_dir / name)
            except OSError as error:
                raise InputError(
                    f"Writing to {output_dir} failed ({error.strerror or error}); nothing was replaced."
                ) from error
        return {**data, "metrics": metrics, "files": [*names, RECORD]}

    def _regions(self, folder: Path, pair: Pair, result: Registration) -> None:
        sets = {"moving_rois": result.moving_masks, "fixed_rois": result.fixed_masks}
        if not len(result.matches):
            sets = {
                f"{name}_regions": regions.masks(list(range(len(regions))))
                for name, regions in (("moving", result.moving), ("fixed", result.fixed))
                if len(regions)
            }
        for name, masks in sets.items():
            moving = name.startswith("moving")
            volume = pair.moving if moving else pair.fixed
            transform = np.linalg.inv(pair.transform) if moving else np.eye(4)
            labels = paint(masks, pair.working, volume.geometry, transform)
            save_nifti(folder / f"{name}.nii.gz", labels, volume.geometry)
            if volume.is_picture:
                save_picture(folder / f"{name}.png", labels[None])

    def _dense(self, folder: Path, pair: Pair, ddf: Tensor, metrics: dict) -> None:
        grid = pair.fixed.geometry
        u = world_displacement(ddf[0].numpy(), grid, pair.transform).astype(np.float32)
        write_field(folder / "ddf.nii.gz", u, grid)
        if self.inverse:
            inverse, there, around = invert_chain([Field(u, grid)], grid, pair.moving.geometry)
            write_field(folder / "inverse_ddf.nii.gz", inverse.u_lps, inverse.grid)
            metrics["inverse"] = {"residual": there.as_dict(), "residual_fixed": around.as_dict()}
        moving = torch.from_numpy(pair.moving.array)
        moved = resample(moving, pair.moving.geometry, grid, pair.transform, ddf, fill=float(moving.min())).numpy()
        moved = as_stored(moved, pair.moving)
        save_nifti(folder / "moved.nii.gz", moved[0] if len(moved) == 1 else np.moveaxis(moved, 0, -1), grid)
        if pair.moving.is_picture and pair.fixed.is_picture:
            save_picture(folder / "moved.png", moved)
        if pair.moving_label is not None:
            label = pair.moving_label
            warped = resample_map(label.array[0], label.geometry, grid, pair.transform, ddf)
            save_nifti(folder / "moved_label.nii.gz", warped, grid, label.header)
        if pair.fixed_landmarks is not None:
            write_landmarks(
                folder / "moved_landmarks.csv", fixed_to_moving(pair.fixed_landmarks, ddf, grid, pair.transform)
            )

    def _record(self, pair: Pair, result: Registration, metrics: dict, said: list[str]) -> dict:
        spacing = pair.working.spacing
        unit = float(np.prod([s for a, s in enumerate(spacing)]))
        pairs = []
        for k in range(len(result.matches)):
            entry: dict[str, Any] = {
                "number": k + 1,
                "similarity": round(float(result.matches.similarity[k]), 4),
                "score": round(float(result.matches.score[k]), 4),
            }
            for name, regions, chosen, masks, transform in (
                ("moving", result.moving, result.matches.moving, result.moving_masks, pair.transform),
                ("fixed", result.fixed, result.matches.fixed, result.fixed_masks, np.eye(4)),
            ):
                index = np.zeros(3)
                index[: pair.working.ndim] = regions.centroids[chosen[k]].numpy()
                place = apply_affine(transform, apply_affine(pair.working.affine, index))
                entry[name] = {
                    "quality": None if regions.scores is None else round(float(regions.scores[chosen[k]]), 4),
                    "mm2" if pair.working.ndim == 2 else "mm3": round(float(masks[k].float().sum() / 255 * unit), 2),
                    "centroid_ras_mm": [round(float(v), 3) for v in place],
                }
            pairs.append(entry)
        return {
            "moving": pair.moving.path,
            "fixed": pair.fixed.path,
            "pairs": pairs,
            "regions_found": {"moving": len(result.moving), "fixed": len(result.fixed)},
            "warnings": said,
            "method": self.method,
            "metrics": metrics,
            "initial_transform_ras_mm": pair.transform.round(6).tolist(),
            "working_grid": {"shape": list(pair.working.shape), "spacing_mm": [round(s, 4) for s in spacing]},
            "parameters": self.parameters,
            "details": result.details,
            "seconds": {k: round(v, 3) for k, v in result.seconds.items()},
            "peak_memory_mb": round(peak_memory_mb(), 1),
            "versions": {p: version(p) for p in PACKAGES} | {"python": platform.python_version()},
        }

    def _title(self, pair: Pair, metrics: dict) -> str:
        text = f"{Path(pair.moving.path).name} → {Path(pair.fixed.path).name}"
        for key, name, unit in (("dice", "mean Dice", ""), ("tre_mm", "mean landmark error", " mm")):
            if key in metrics and "final" in metrics[key]:
                first, last = (metrics[key][s]["mean"] for s in ("initial", "final"))
                if first is not None and last is not None:
                    text += f"   {name} {first:.3g} → {last:.3g}{unit}"
        return text


def paint(masks: Tensor, working: Geometry, target: Geometry, transform: NDArray) -> NDArray:
    """Label map (*target.shape) of masks (K, *working.shape): mask k gets the value k + 1, small ones lie on top.

    Args:
        masks: coverage on the working grid.
        working: their grid.
        target: grid of the label map.
        transform: (4, 4) target world to working world, RAS mm.
    """
    labels = torch.zeros(target.shape, dtype=torch.int32)
    for k in masks.flatten(1).sum(dim=1, dtype=torch.int64).argsort(descending=True).tolist():
        on = resample(masks[k][None].float(), working, target, transform, fill=0.0)[0]
        labels[on >= 127.5] = k + 1
    return labels.numpy().astype(np.uint8 if len(masks) < 256 else np.uint16)
