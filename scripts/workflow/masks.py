# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Masks of one image or a list of images as a MONAI workflow: skip finished ones, segment, write and report."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import Transform
from torch import nn
from tqdm import tqdm

from ..common.errors import InputError
from ..common.files import there
from ..common.fingerprint import file_sha256
from ..common.staging import recover, staged
from ..data.writer import save_nifti
from ..masks.cache import mask_key
from ..masks.source import Masks, MaskSource
from .cohort.case import read_record
from .guard import check_output_dir
from .outcome import ExitCode, input_error

logger = logging.getLogger(__name__)


def output_paths(output_dir: str | Path, case: str) -> tuple[Path, Path]:
    """The label map and the record of one image."""
    return Path(output_dir) / f"{case}_masks.nii.gz", Path(output_dir) / f"{case}_masks.json"


def checked_items(items: Sequence[dict], output_dir: str | Path) -> list[dict]:
    """The items of :func:`scripts.data.images.image_items`, if writing their masks replaces no file of the user."""
    found = [item for item in items if there(item["path"])]  # the others fail, so nothing is written for them
    inputs = {Path(item["path"]).resolve() for item in found}
    recover(Path(output_dir))
    for item in found:
        path, record = output_paths(output_dir, item["case"])
        if path.resolve() in inputs:
            raise InputError(f"The masks of {item['path']} would replace {path}, an input; give another --output_dir.")
        if path.exists() and "sha256" not in (read_record(Path(output_dir), record.name) or {}):
            raise InputError(
                f"{path} exists and was not written by this command; move it away or give another --output_dir."
            )
    return list(items)


class FindDone(Transform):
    """Marks an image that has complete masks from the same content, frame, source, settings, weights and names.

    Args:
        output_dir: folder of an earlier run.
        source: makes the masks.
        names: structures.
        modality: see :meth:`scripts.masks.source.MaskSource.forward`.

    Adds "key" to the output of :class:`scripts.data.images.LoadVolume`, and "done", the record, if the masks are
    complete, or "error" if the label map was edited since.
    """

    def __init__(
        self, output_dir: str | Path, source: MaskSource, names: str | Sequence[str], modality: str = "auto"
    ) -> None:
        self.output_dir, self.source, self.modality = output_dir, source, modality
        self.names = source.resolve(names)

    def __call__(self, data: Mapping) -> dict:
        if "volume" not in data:
            return dict(data)
        try:
            key = mask_key(self.source, data["volume"], self.names, self.modality)
        except InputError as error:
            return {**data, "error": error}
        path, record = output_paths(self.output_dir, data["case"])
        record = read_record(record.parent, record.name) or {}
        found = file_sha256(path) if path.exists() and path.stat().st_size else None
        if found is None:  # missing or empty
            return {**data, "key": key}
        if found != record.get("sha256"):
            error = InputError(f"{path} was edited after this command wrote it; move it away to make it again.")
            return {**data, "error": error}
        done = record.get("key") == key and _usable(record)
        return {**data, "key": key, **({"done": record} if done else {})}


def _usable(record: Mapping[str, Any]) -> bool:
    """Whether a record still has the volumes that the table shows; it may have been edited or damaged."""
    volumes = record.get("ml")
    return isinstance(volumes, dict) and all(isinstance(v, (int, float)) for v in volumes.values())


def one_item(batch: list[dict]) -> dict:
    """Collates a batch of one; volumes are not tensors."""
    return batch[0]


def item_batch(batch: Mapping, device: torch.device | str, non_blocking: bool = False, **kwargs: Any):
    """An item as MONAI's engines expect it: (input, no target)."""
    return batch, None


class MaskInferer:
    """Makes the masks of one item. A failure is recorded, and the rest of the list is still done.

    ``names`` and ``modality`` are those of :meth:`scripts.masks.source.MaskSource.forward`.
    """

    def __init__(self, names: str | Sequence[str], modality: str = "auto") -> None:
        self.names, self.modality = names, modality

    def __call__(self, inputs: Mapping, network: nn.Module) -> Masks | Exception | None:
        if "error" in inputs or "done" in inputs:
            return inputs.get("error")
        try:
            return network(inputs["volume"], self.names, self.modality)
        except InputError as error:
            return error
        except (RuntimeError, MemoryError) as error:  # for example out of memory on one large image
            logger.debug("masks of %s", inputs["path"], exc_info=True)
            return error


class SaveMasks(Transform):
    """Writes the masks that ``source`` made of one image; the postprocessing of the evaluator.

    Input: a dict with "path", "case", "key" and "pred" (Masks, an exception, or None if "done"). Adds "record". In
    ``output_dir``: ``CASE_masks.nii.gz`` on the image's grid, and ``CASE_masks.json`` with the value and the volume in
    ml of each structure.
    """

    def __init__(self, output_dir: str | Path, source: MaskSource) -> None:
        self.output_dir, self.source = Path(output_dir), source

    def __call__(self, data: Mapping) -> dict:
        masks = data["pred"]
        if data.get("done"):
            return {**data, "record": {**data["done"], "image": str(data["path"]), "status": "done before"}}
        if not isinstance(masks, Masks):
            reason = (str(input_error(masks) or masks).splitlines() or [type(masks).__name__])[0]
            return {**data, "record": {"image": str(data["path"]), "status": f"failed: {reason}"}}
        check_output_dir(self.output_dir)
        path, record_path = output_paths(self.output_dir, data["case"])
        voxel_ml = abs(float(np.linalg.det(masks.geometry.affine[:3, :3]))) / 1000
        count = np.bincount(masks.labels.ravel(), minlength=len(masks.names) + 1)
        record = {
            "image": str(data["path"]),
            "file": path.name,
            "source": self.source.name,
            "key": data["key"],
            "labels": {name: i for i, name in enumerate(masks.names, start=1)},
            "ml": {name: round(float(count[i]) * voxel_ml, 3) for i, name in enumerate(masks.names, start=1)},
        }
        try:
            with staged(self.output_dir, record_path.name, {path.name}) as folder:
                save_nifti(folder / path.name, masks.labels, masks.geometry)
                record["sha256"] = file_sha256(folder / path.name)
                (folder / record_path.name).write_text(json.dumps(record, indent=2), encoding="utf-8")
        except OSError as error:
            return {**data, "record": {"image": str(data["path"]), "status": f"failed: {error.strerror or error}"}}
        return {**data, "record": {**record, "status": "done"}}


class MaskSummary:
    """Handler of the evaluator: a progress bar over ``total`` images, and a table in the log at the end."""

    def __init__(self, total: int, progress: bool = True) -> None:
        self.total, self.progress = total, progress
        self.records: list[dict] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        self.records = []
        self.bar = tqdm(total=self.total, desc="masks", unit="image", disable=not self.progress)
        self.began = time.perf_counter()

    def step(self, engine: Engine) -> None:
        now = time.perf_counter()
        self.records.append({**engine.state.output["record"], "seconds": round(now - self.began, 2)})
        self.began = now
        self.bar.update()

    def finish(self, engine: Engine) -> None:
        self.bar.close()
        width = max(len(Path(r["image"]).name) for r in self.records)
        for record in self.records:
            volumes = ", ".join(f"{name} {ml:g} ml" for name, ml in record.get("ml", {}).items())
            name = Path(record["image"]).name
            logger.info(f"{name:<{width}}  {record['seconds']:6.1f} s  {record['status']}  {volumes}".rstrip())


def end_masks(summary: MaskSummary) -> None:
    """Ends the program with exit code 4 if some images failed; :class:`InputError` if all did."""
    failed = [r for r in summary.records if r["status"].startswith("failed")]
    if failed and len(failed) == len(summary.records):
        raise InputError(failed[0]["status"].removeprefix("failed: "))
    if failed:
        logger.warning("%d of %d images failed; run the command again once they are fixed", len(failed), summary.total)
        sys.exit(ExitCode.SOME_FAILED)
