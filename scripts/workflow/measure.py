# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Measuring a registered pair without writing its images, for tables of many pairs."""

from __future__ import annotations

from collections.abc import Mapping

from monai.transforms import Transform

from ..metrics.pair import pair_metrics


class MeasurePair(Transform):
    """Adds the "metrics" that :class:`scripts.workflow.outputs.SaveRegistration` writes, on the native grid."""

    def __call__(self, data: Mapping) -> dict:
        pair = data["pair"]
        return {**data, "metrics": pair_metrics(pair, pair.on_fixed_grid(data["pred"].ddf))}
