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

# Names of the bundled networks; everything else is a region without an anatomical meaning.
ANATOMY = {
    "right ventricle": ("53085002", "Right ventricle"),
    "right ventricle cavity": ("53085002", "Right ventricle"),
    "myocardium": ("74281007", "Myocardium"),
    "left ventricle": ("87878005", "Left ventricle"),
    "left ventricle cavity": ("87878005", "Left ventricle"),
    "liver": ("10200004", "Liver"),
    "spleen": ("78961009", "Spleen"),
    "stomach": ("69695003", "Stomach"),
    "pancreas": ("15776009", "Pancreas"),
    "aorta": ("15825003", "Aorta"),
    "gallbladder": ("28231008", "Gallbladder"),
    "esophagus": ("32849002", "Esophagus"),
    "right kidney": ("9846003", "Right kidney"),
    "left kidney": ("18639004", "Left kidney"),
}


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
        series: the images that the regions lie on.
        tracking: a UID for each region, see :func:`tracking_uids`.
        number: of the new series.
        description: of the new series.

    Raises:
        InputError: the regions are on another grid.
    """
    masks = [on_slices(regions.mask(k), regions.geometry, series) for k in range(len(regions.segments))]
    algorithm = hd.AlgorithmIdentificationSequence(MANUFACTURER, codes.DCM.ArtificialIntelligence, software_version())
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=k + 1,
            segment_label=segment.name[:64],
            segmented_property_category=_category(segment.name),
            segmented_property_type=_type(segment.name),
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
        pixel_array=np.stack(masks, axis=-1).astype(np.uint8),
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


def _category(name: str) -> hd.sr.CodedConcept:
    if name in ANATOMY:
        return hd.sr.CodedConcept("123037004", "SCT", "Anatomical Structure")
    return hd.sr.CodedConcept("85756007", "SCT", "Tissue")


def _type(name: str) -> hd.sr.CodedConcept:
    value, meaning = ANATOMY.get(name, ("85756007", "Tissue"))
    return hd.sr.CodedConcept(value, "SCT", meaning)
