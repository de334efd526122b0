# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Everything a registration leaves in its output folder, replaced as a whole or not at all."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Transform
from torch import Tensor

from ..common.errors import InputError
from ..common.staging import staged
from ..correspondence.region_pairs import RECORD
from ..correspondence.result import Registration
from ..data.pair import Pair
from ..metrics.assembly import TITLES
from ..metrics.pair import pair_metrics
from ..report.case_page import case_page
from ..report.panels import overview, panels, png
from .correspondence_record import check_finite, correspondence_record
from .files import write_confidence, write_fields, write_moved, write_moved_label, write_moved_landmarks, write_regions
from .guard import FILES, OUTPUTS, check_inputs, own_dicom, sole_writer
from .record import flat_settings

logger = logging.getLogger(__name__)


class SaveRegistration(Transform):
    """Writes the results of one pair; the postprocessing of the evaluator.

    Args:
        output_dir: folder of the results; made if missing. A pair's own "output_dir" takes precedence.
        parameters: settings of the run to record, JSON-ready.
        overview: also draw ``overview.png`` and write ``report.html``.
        inverse: also write the inverse field, which pulls the fixed image to the moving grid.
        method: to record: "name", and "reason" where it was chosen automatically.
        keep: what to write, names of ``OUTPUTS``; None writes everything. The record is always written.
        viewer_size: longest side in voxels of the volumes embedded in the report; 0 leaves the viewer out.

    Input: a dict with "image" (1, 2C, *shape), "pair" (:class:`Pair`) and "pred" (:class:`Registration`); sentences
    under "warnings" are recorded too.

    Output: the same dict with "metrics", "files" and "trusted". The folder contains ``correspondence.json``, the exact
    region pairs ``moving_rois.seg.nrrd`` and ``fixed_rois.seg.nrrd`` with their quick views ``*_rois.nii.gz`` (equal
    numbers are pairs), and with a dense field ``ddf.nii.gz`` (LPS mm), ``moved.nii.gz`` and, where given,
    ``moved_label.nii.gz`` and ``moved_landmarks.csv``; on request ``confidence.nii.gz`` and ``inverse_ddf.nii.gz``,
    whose error is in the metrics under "inverse". Pictures are also written as PNG. If no pair was found, all regions
    of each image are written as ``*_regions``, numbered independently.

    Raises:
        InputError: unknown names in ``keep``; a result that is not finite or would overwrite an input; a full disk.
    """

    def __init__(
        self,
        output_dir: str,
        parameters: Mapping[str, Any] | None = None,
        overview: bool = True,
        inverse: bool = False,
        method: Mapping[str, str | None] | None = None,
        keep: Sequence[str] | None = None,
        viewer_size: int = 128,
    ) -> None:
        unknown = sorted(set(keep or ()) - set(OUTPUTS))
        if unknown:
            raise InputError(f"keep must be among {', '.join(OUTPUTS)}, got {unknown[0]!r}.")
        if viewer_size < 0:
            raise InputError(f"viewer_size must be 0 or a number of voxels, got {viewer_size}.")
        self.output_dir, self.parameters, self.method = Path(output_dir), dict(parameters or {}), dict(method or {})
        self.overview, self.inverse, self.keep, self.viewer_size = overview, inverse, keep, viewer_size

    def __call__(self, data: Mapping) -> dict:
        pair: Pair = data["pair"]
        result: Registration = data["pred"]
        check_finite(result)
        inputs = [getattr(pair, role).path for role in ("moving", "fixed")]
        output_dir = Path(data.get("output_dir") or self.output_dir)
        check_inputs(output_dir, inputs)
        known = pair.warnings  # logged when the pair was read
        found = [*data.get("warnings", ()), *result.warnings]
        for sentence in found:
            logger.warning(sentence)
        began = time.perf_counter()
        try:
            with sole_writer(output_dir), staged(output_dir, RECORD, FILES | own_dicom(output_dir)) as part:
                metrics = self._volumes(part, pair, result)
                result.seconds["write"] = time.perf_counter() - began
                record = correspondence_record(pair, result, metrics, [*known, *found], self.parameters, self.method)
                for sentence in record["warnings"][len({*known, *found}) :]:
                    logger.warning(sentence)
                self._pictures(part, data["image"][0], pair, result, record)
                text = json.dumps(record, indent=2, allow_nan=False)
                (part / RECORD).write_text(text, encoding="utf-8")
                names = sorted(p.name for p in part.iterdir() if p.name != RECORD)
        except OSError as error:
            raise InputError(
                f"Writing to {output_dir} failed ({error.strerror or error}); the folder still contains the complete "
                "earlier result, if there was one."
            ) from error
        return {**data, "metrics": metrics, "files": [*names, RECORD], "trusted": record["trusted"]}

    def _wants(self, name: str) -> bool:
        return self.keep is None or name in self.keep

    def _volumes(self, folder: Path, pair: Pair, result: Registration) -> dict:
        """Writes everything on the native grids, one large array at a time, and returns the metrics."""
        if self._wants("rois"):
            write_regions(folder, pair, result)
        ddf: Tensor | None = pair.on_fixed_grid(result.ddf)
        metrics = pair_metrics(pair, ddf)
        if ddf is None:
            return metrics
        inverse = self.inverse and self._wants("inverse_ddf")
        if self._wants("ddf") or inverse:
            metrics |= write_fields(folder, pair, ddf, inverse)
        if self._wants("confidence"):
            write_confidence(folder, pair, result)
        for name, write in (
            ("moved", write_moved),
            ("moved_label", write_moved_label),
            ("moved_landmarks", write_moved_landmarks),
        ):
            if self._wants(name):
                write(folder, pair, ddf)
        return metrics

    def _pictures(self, folder: Path, image: Tensor, pair: Pair, result: Registration, record: Mapping) -> None:
        if not self.overview or not (self._wants("overview") or self._wants("report")):
            return
        image = torch.as_tensor(image).cpu()
        pictures = {name: png(draw) for name, draw in panels(image, result, pair.working.spacing).items()}
        if self._wants("overview"):
            overview(folder / "overview.png", pictures, _title(pair, record["metrics"]))
        if self._wants("report"):
            settings = flat_settings(record["parameters"])
            page = case_page(record, settings, pictures, pair, result, self.viewer_size)
            (folder / "report.html").write_text(page, encoding="utf-8")


def _title(pair: Pair, metrics: Mapping) -> str:
    text = f"{Path(pair.moving.path).name} → {Path(pair.fixed.path).name}"
    for key in ("dice", "tre_mm"):
        first, last = (metrics.get(key, {}).get(stage, {}).get("mean") for stage in ("initial", "final"))
        if first is not None and last is not None:
            text += f"   mean {TITLES[key]} {first:.3g} → {last:.3g}"
    return text


class MeasurePair(Transform):
    """Adds the "metrics" that :class:`scripts.workflow.outputs.SaveRegistration` writes, on the native grid."""

    def __call__(self, data: Mapping) -> dict:
        pair = data["pair"]
        return {**data, "metrics": pair_metrics(pair, pair.on_fixed_grid(data["pred"].ddf))}
