# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Paired regions as DICOM Segmentation objects: equal names, colours and tracking identifiers in both images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from ..segmentations import Segmentation
from .series import MANUFACTURER, Series, on_slices, software_version

TISSUE = hd.sr.CodedConcept("85756007", "SCT", "Tissue")  # the regions have no anatomical meaning of their own


def tracking_uids(count: int) -> list[str]:
    """Tracking identifiers of pairs; the segment of a pair has the same in both images."""
    return [generate_uid() for _ in range(count)]


def write_segmentation_object(
    path: str | Path, regions: Segmentation, series: Series, tracking: Sequence[str], number: int, description: str
) -> None:
    """Writes regions as binary segments; regions that overlap stay whole.

    Args:
        path: of the object.
        regions: on the grid of the series.
        series: the images of the regions.
        tracking: a UID for each region, see :func:`tracking_uids`.
        number: of the new series.
        description: of the new series.
    """
    if len(regions.layers) == 1:  # a label map, which takes a fraction of the memory
        pixels = on_slices(regions.layers[0], regions.geometry, series)
    else:
        masks = (regions.mask(k).astype(np.uint8) for k in range(len(regions.segments)))
        pixels = np.stack([on_slices(mask, regions.geometry, series) for mask in masks], axis=-1)
    algorithm = hd.AlgorithmIdentificationSequence(MANUFACTURER, codes.DCM.ArtificialIntelligence, software_version())
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=k + 1,
            segment_label=segment.name[:64],
            segmented_property_category=TISSUE,
            segmented_property_type=TISSUE,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=uid,
            tracking_id=segment.name[:64],
            display_color=hd.color.CIELabColor.from_rgb(*(round(255 * c) for c in segment.colour)),
        )
        for k, (segment, uid) in enumerate(zip(regions.segments, tracking, strict=True))
    ]
    made = hd.seg.Segmentation(
        source_images=list(series.slices),
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=number,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=software_version(),
        device_serial_number="0",
        content_label="REGIONS",
        series_description=description,
    )
    made.save_as(path)
