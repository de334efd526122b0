# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""An image as the page shows it: slice by slice, regions in colour, clicks as places in mm."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries

from ...correspondence.slicing import SlicePlan, plan_slices
from ...data.intensity import apply_window
from ...data.reader import Volume, check_intensities, read_volume
from ...data.segmentations import pair_colours
from ...report.panels import View
from ...spatial.geometry import Geometry, apply_affine

SIDE = 512  # pixels of the longer side of a picture
ALPHA = 0.3  # of a region's colour over the image


@dataclass(frozen=True, eq=False)
class Shown:
    """One image on the page.

    Attributes:
        name: of the image, for the user.
        folder: contains ``image.npy``, (C, *shape) uint8, and, once there are regions, ``regions.npy``, (*shape) with
            0 outside and the number of the pair in each region.
        geometry: grid of the image.
        plan: how it is cut into slices.
    """

    name: str
    folder: Path
    geometry: Geometry
    plan: SlicePlan

    @property
    def middle(self) -> int:
        """The middle slice, or the one with the largest part of the best pair's region."""
        regions = self._read("regions")
        if regions is None or self.plan.axis is None or not regions.any():
            return self.plan.count // 2
        best = np.moveaxis(regions == regions[regions > 0].min(), self.plan.axis, 0)
        return int(np.count_nonzero(best, axis=(1, 2)).argmax())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a slice in pixels."""
        plane = [s for a, s in enumerate(self.geometry.shape) if a != self.plan.axis]
        return (plane[1], plane[0]) if self.plan.transposed else (plane[0], plane[1])

    def picture(self, position: int) -> bytes:
        """One slice as PNG with square pixels."""
        view = View(self.plan, position, self.geometry.spacing)
        height, width = (s * mm for s, mm in zip(self.size, view.pixel_mm))
        shape = tuple(max(1, round(SIDE * s / max(height, width))) for s in (width, height))
        grey = Image.fromarray(view(torch.from_numpy(self._read("image")))).convert("RGB")
        pixels = np.asarray(grey.resize(shape, Image.Resampling.BICUBIC), np.float32)
        regions = self._read("regions")
        if regions is not None:
            labels = Image.fromarray(view(torch.from_numpy(regions.astype(np.int32))[None]))
            pixels = coloured(pixels, np.asarray(labels.resize(shape, Image.Resampling.NEAREST)), int(regions.max()))
        stream = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    def place(self, position: int, x: float, y: float) -> list[float]:
        """RAS mm of a point of a slice; ``x`` and ``y`` run from 0 at the left and top to 1."""
        point = torch.tensor([[x * self.size[1], y * self.size[0]]], dtype=torch.float64)
        index = self.plan.to_index(point, torch.tensor([position]), self.size)[0].numpy()
        return apply_affine(self.geometry.affine, np.pad(index, (0, 3 - len(index)))).tolist()

    def show_regions(self, labels: NDArray | None) -> None:
        """Stores a map of regions (*shape) to draw; None draws none."""
        if labels is None:
            (self.folder / "regions.npy").unlink(missing_ok=True)
        else:
            np.save(self.folder / "regions.npy", labels.astype(np.uint16))

    def _read(self, name: str) -> NDArray | None:
        path = self.folder / f"{name}.npy"
        return np.load(path, mmap_mode="c") if path.exists() else None


def show(path: Path, folder: Path, name: str, frame: int | None = None) -> Shown:
    """Reads an image and prepares it for the page.

    Args:
        path: image file or folder with a DICOM series.
        folder: for the prepared image; made if missing.
        name: for the user.
        frame: time frame of a 4-D image, from 0.

    Raises:
        InputError: the image cannot be registered.
    """
    volume: Volume = read_volume(path, frame=frame)
    image = apply_window(torch.from_numpy(check_intensities(volume))).clamp(0, 1)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "image.npy", (image * 255).round().to(torch.uint8).numpy())
    shown = Shown(name, folder, volume.geometry, plan_slices(volume.geometry))
    shown.show_regions(None)
    return shown


def coloured(pixels: NDArray, labels: NDArray, count: int) -> NDArray:
    """A picture (H, W, 3) in 0..255 with the regions of a label map (H, W) filled and outlined."""
    colours = 255 * np.array([(0, 0, 0), *pair_colours(count)], np.float32)
    alpha = np.where(labels > 0, ALPHA, 0.0)
    alpha[find_boundaries(labels, mode="inner")] = 1.0
    return pixels * (1 - alpha[..., None]) + colours[labels] * alpha[..., None]
