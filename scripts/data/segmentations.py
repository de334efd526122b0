# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Regions that may overlap, voxel by voxel: segmentations of 3D Slicer (``*.seg.nrrd``) with several layers.

A layer is a label map. Regions that share a voxel go into different layers; every region keeps its own value, name and
colour. Slicer shows the regions as segments, and ITK reads the layers as the components of a vector image.
"""

from __future__ import annotations

import colorsys
import gzip
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..common.errors import InputError
from ..spatial.files import read_itk
from ..spatial.geometry import LPS, Geometry
from ..spatial.itk_images import channels_of

SUFFIX = ".seg.nrrd"
GOLDEN = 0.618033988749895  # of a turn; consecutive hues stay far apart for any number of regions
COLUMNS = ("Name", "Color", "Layer", "LabelValue")
SLAB_VOXELS = 4_000_000
Colour = tuple[float, float, float]
Part = tuple[tuple[slice, ...], NDArray]  # a box of a grid, and a mask (*box) bool inside it


@dataclass(frozen=True)
class Segment:
    """One region.

    Attributes:
        name: shown by Slicer.
        number: its value in its layer.
        layer: index of its layer.
        colour: red, green and blue in [0, 1].
    """

    name: str
    number: int
    layer: int
    colour: Colour


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Regions on one grid; ``layers`` (L, *geometry.shape) are label maps, uint8 or uint16, 0 for the background."""

    layers: NDArray
    geometry: Geometry
    segments: tuple[Segment, ...]

    def mask(self, k: int) -> NDArray:
        """Region k as (*geometry.shape) bool."""
        return self.layers[self.segments[k].layer] == self.segments[k].number


def pair_colours(count: int) -> list[Colour]:
    """Colours that tell regions apart; colour k does not depend on ``count``, so that pairs match across images."""
    return [tuple(round(c, 4) for c in colorsys.hsv_to_rgb(k * GOLDEN % 1, 0.75, 0.95)) for k in range(count)]


def pack_parts(parts: Iterable[Part], names: Sequence[str], grid: Geometry) -> Segmentation:
    """Packs regions greedily into few layers; region k gets the value k + 1 and colour k of :func:`pair_colours`.

    Args:
        parts: a box of the grid and the mask inside it for each region, which is empty outside the box; taken one by
            one, so a generator keeps memory low.
        names: one per region.
        grid: of the segmentation.
    """
    if len(names) > np.iinfo(np.uint16).max:
        raise InputError(f"{len(names)} regions do not fit into a 16-bit segmentation; keep fewer with --max_pairs.")
    kind = np.uint8 if len(names) <= np.iinfo(np.uint8).max else np.uint16
    layers = np.zeros((1, *grid.shape), kind)
    segments: list[Segment] = []
    for (box, mask), name, colour in zip(parts, names, pair_colours(len(names)), strict=True):
        inner = boxes_of(mask.view(np.uint8), 1)[0]  # most regions are small parts of their box
        box, mask = tuple(slice(b.start + i.start, b.start + i.stop) for b, i in zip(box, inner)), mask[inner]
        layer = next((i for i, values in enumerate(layers) if not values[box][mask].any()), len(layers))
        if layer == len(layers):
            layers.resize((layer + 1, *grid.shape), refcheck=False)  # zeros; in place where the system can
        segments.append(Segment(name, len(segments) + 1, layer, colour))
        layers[layer][box][mask] = len(segments)
    return Segmentation(layers, grid, tuple(segments))


def boxes_of(labels: NDArray, count: int) -> list[tuple[slice, ...]]:
    """The smallest box around each of the values 1 to ``count`` of a label map; empty for a value that is missing."""
    return [box or (slice(0, 0),) * labels.ndim for box in ndimage.find_objects(labels, count)]


def write_segmentation(path: str | Path, segmentation: Segmentation) -> None:
    """Writes a segmentation of 3D Slicer, which tells it from an image by the suffix ``.seg.nrrd``.

    A segmentation on a 2-D grid becomes a single slice.
    """
    layers, grid = segmentation.layers, segmentation.geometry
    layers = layers.reshape(*layers.shape, *[1] * (3 - grid.ndim))
    step = max(1, SLAB_VOXELS // layers[..., 0].size)
    with open(path, "wb") as stream:
        stream.write(_header(segmentation).encode())
        with gzip.GzipFile("", "wb", 1, stream, mtime=0) as compressed:
            for start in range(0, layers.shape[-1], step):
                # The layer is the fastest axis of the file, then x, y and z.
                slab = layers[..., start : start + step].transpose(3, 2, 1, 0)
                compressed.write(slab.astype(layers.dtype.newbyteorder("<")).tobytes())


def _header(segmentation: Segmentation) -> str:
    """The NRRD header with Slicer's fields. The first axis is a list, as in Slicer; slicerio refuses a vector."""
    layers, grid = segmentation.layers, segmentation.geometry
    lps = LPS @ grid.affine
    several = len(layers) > 1
    sizes = [*([len(layers)] if several else []), *grid.shape, *[1] * (3 - grid.ndim)]
    axes = [f"({','.join(repr(float(v)) for v in column)})" for column in lps[:3, :3].T]
    lines = [
        "NRRD0004",
        f"type: {'unsigned char' if layers.dtype == np.uint8 else 'unsigned short'}",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {'none ' if several else ''}{' '.join(axes)}",
        f"kinds: {'list ' if several else ''}domain domain domain",
        *(["endian: little"] if layers.dtype.itemsize > 1 else []),
        "encoding: gzip",
        f"space origin: ({','.join(repr(float(v)) for v in lps[:3, 3])})",
    ]
    fields = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_MasterRepresentation": "Binary labelmap",  # the name until Slicer 5.2
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    highest = max((s.number for s in segmentation.segments), default=0)
    boxes = [boxes_of(layer, highest) for layer in layers]
    for k, segment in enumerate(segmentation.segments):
        own = {
            "ID": f"Segment_{segment.number}",
            "Name": " ".join(segment.name.split()),
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{c:g}" for c in segment.colour),
            "ColorAutoGenerated": "0",
            "Layer": str(segment.layer),
            "LabelValue": str(segment.number),
            "Extent": _extent(boxes[segment.layer][segment.number - 1]),
            "Tags": "",
        }
        fields |= {f"Segment{k}_{key}": value for key, value in own.items()}
    escaped = {key: value.replace("\\", "\\\\") for key, value in fields.items()}
    return "\n".join([*lines, *(f"{key}:={value}" for key, value in escaped.items())]) + "\n\n"


def _extent(box: tuple[slice, ...]) -> str:
    """First and last voxel along each axis, as VTK's extent; an empty region ends before it begins."""
    ends = [end for side in box for end in (side.start, side.stop - 1)]
    return " ".join(map(str, [*ends, *[0] * (6 - len(ends))]))


def read_segmentation(path: str | Path) -> Segmentation:
    """Reads a segmentation of 3D Slicer, or one of :func:`write_segmentation`."""
    try:
        image = read_itk(path)
        layers, affine = channels_of(image)
        count = sum(bool(re.fullmatch(r"Segment\d+_ID", key)) for key in image.GetMetaDataKeys())
        rows = [[image.GetMetaData(f"Segment{k}_{c}") for c in COLUMNS] for k in range(count)]
        segments = tuple(
            Segment(name, int(value), int(layer), tuple(float(c) for c in colour.split()))
            for name, colour, layer, value in rows
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a segmentation; it may be damaged or another format.") from error
    if not segments or not all(0 <= s.layer < len(layers) for s in segments):
        raise InputError(f"{path} is not a segmentation with binary label maps; export it from Slicer as .seg.nrrd.")
    if layers.shape[3] == 1:
        layers = layers[..., 0]
    return Segmentation(layers, Geometry(layers.shape[1:], affine), segments)
