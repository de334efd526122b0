# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Masks of a list of images in a folder: written completely or not at all, resumed, and summed up."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import Transform
from torch import nn
from tqdm import tqdm

from ..common.errors import InputError
from ..data.writer import save_nifti
from ..masks.names import resolve
from ..masks.source import Masks, MaskSource
from .guard import check_output_dir

logger = logging.getLogger(__name__)


def record_path(output_dir: str | Path, case: str) -> Path:
    """The record of one image; where it stands, its label map stands too."""
    return Path(output_dir) / f"{case}_masks.json"


def mark_done(items: Sequence[dict], output_dir: str | Path, source: MaskSource, names: str | Sequence[str]) -> list:
    """Marks the images whose masks stand in the folder already, made by the same source with the same names.

    Args:
        items: see :func:`scripts.data.images.image_items`.
        output_dir: folder of an earlier run.
        source: what is to make the masks.
        names: structures asked for.

    Returns:
        the items, finished ones with "done".

    Raises:
        InputError: a name that the source does not have; nothing is read before it is sure.
    """
    wanted = list(names) if getattr(source, "any_name", False) else list(resolve(names, source.offered, source.name))
    marked = []
    for item in items:
        path = record_path(output_dir, item["case"])
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            record = {}
        same = (
            list(record.get("labels", {})) == wanted
            and record.get("identity") == source.identity
            and record.get("image") == str(item["path"])
            and (Path(output_dir) / str(record.get("file"))).is_file()
            and Path(item["path"]).exists()
            and path.stat().st_mtime >= Path(item["path"]).stat().st_mtime
        )
        marked.append({**item, "done": record} if same else dict(item))
    return marked


def one_item(batch: list[dict]) -> dict:
    """Collation of a batch of one: volumes are no tensors."""
    return batch[0]


def item_batch(batch: Mapping, device: torch.device | str, non_blocking: bool = False, **kwargs: Any):
    """An item as MONAI's engines want it: (input, no target)."""
    return batch, None


class MaskInferer:
    """Asks the source for the masks of one item; failures are recorded, so that the rest of a list is still done.

    Args:
        names: structures.
        modality: see :class:`scripts.masks.source.MaskSource`.
    """

    def __init__(self, names: str | Sequence[str], modality: str = "auto") -> None:
        self.names, self.modality = names, modality

    def __call__(self, inputs: Mapping, network: nn.Module) -> Masks | Exception | None:
        if "volume" not in inputs:
            return inputs.get("error")
        try:
            return network(inputs["volume"], self.names, self.modality)
        except InputError as error:
            return error
        except (RuntimeError, MemoryError) as error:  # out of memory on one large image, for instance
            logger.debug("masks of %s", inputs["path"], exc_info=True)
            return error


class SaveMasks(Transform):
    """Writes the masks of one image; the postprocessing of the evaluator.

    Args:
        output_dir: folder of the results.
        source: what made them.

    Input: a dict with "path", "case" and "pred" (Masks, an exception, or None for an image that was done before).

    Output: the same with "record". In the folder: ``CASE_masks.nii.gz`` on the image's grid and ``CASE_masks.json``
    with the value and the volume in ml of each structure.
    """

    def __init__(self, output_dir: str | Path, source: MaskSource) -> None:
        self.output_dir, self.source = Path(output_dir), source

    def __call__(self, data: Mapping) -> dict:
        masks = data["pred"]
        if data.get("done"):
            return {**data, "record": {**data["done"], "status": "done before"}}
        if not isinstance(masks, Masks):
            reason = (str(masks).splitlines() or [type(masks).__name__])[0]
            return {**data, "record": {"image": str(data["path"]), "status": f"failed: {reason}"}}
        geometry = masks.geometry
        voxel_ml = abs(float(np.linalg.det(geometry.affine[:3, :3]))) / 1000
        count = np.bincount(masks.labels.ravel(), minlength=len(masks.names) + 1)
        record = {
            "image": str(data["path"]),
            "file": f"{data['case']}_masks.nii.gz",
            "source": self.source.name,
            "identity": self.source.identity,
            "labels": {name: i for i, name in enumerate(masks.names, start=1)},
            "ml": {name: round(float(count[i]) * voxel_ml, 3) for i, name in enumerate(masks.names, start=1)},
        }
        check_output_dir(self.output_dir)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=self.output_dir) as folder:
            try:
                part = Path(folder)
                save_nifti(part / record["file"], masks.labels, geometry)
                path = record_path(self.output_dir, data["case"])
                (part / path.name).write_text(json.dumps(record, indent=2), encoding="utf-8")
                path.unlink(missing_ok=True)  # the old record must not speak of the new label map
                (part / record["file"]).replace(self.output_dir / record["file"])
                (part / path.name).replace(path)
            except OSError as error:
                return {**data, "record": {"image": str(data["path"]), "status": f"failed: {error.strerror or error}"}}
        return {**data, "record": {**record, "status": "done"}}


class MaskSummary:
    """Handler of the evaluator: a progress bar while it runs, a table at the end.

    Args:
        total: number of images.
        progress: show the bar.
        write: takes the lines of the table.
    """

    def __init__(self, total: int, progress: bool = True, write: Callable[[str], None] = logger.info) -> None:
        self.total, self.progress, self.write = total, progress, write
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
        record = {**engine.state.output["record"], "seconds": round(now - self.began, 2)}
        self.began = now
        self.records.append(record)
        self.bar.update()

    def finish(self, engine: Engine) -> None:
        self.bar.close()
        width = max(len(Path(r["image"]).name) for r in self.records)
        for record in self.records:
            volumes = ", ".join(f"{name} {ml:g} ml" for name, ml in record.get("ml", {}).items())
            name = Path(record["image"]).name
            self.write(f"{name:<{width}}  {record['seconds']:6.1f} s  {record['status']}  {volumes}".rstrip())


def end_masks(summary: MaskSummary) -> None:
    """Ends the program with exit code 1 where an image failed; a single image's failure is the error itself.

    Raises:
        InputError: every image failed.
    """
    failed = [r for r in summary.records if r["status"].startswith("failed")]
    if failed and len(failed) == len(summary.records):
        raise InputError(failed[0]["status"].removeprefix("failed: "))
    if failed:
        logger.warning("%d of %d images failed; run the command again when they are mended", len(failed), summary.total)
        sys.exit(1)
