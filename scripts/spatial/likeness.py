# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""How well a linear transform fits two images: shared information, outlines of the body, and pairs of regions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from .geometry import Geometry
from .itk_images import placed

FOREGROUND, DIM = 0.04, 0.2  # least intensity of the body: absolute, and as a share of Otsu's threshold
MIN_OVERLAP = 0.3  # least share of the smaller body that a transform must bring onto the other
BINS = 24
PER_BIN = 40  # least number of body voxels per joint bin


@dataclass(frozen=True, eq=False)
class Scan:
    """One image of a pair, for its initial alignment.

    Attributes:
        image: (X, Y[, Z]) grey, windowed to [0, 1].
        geometry: its grid.
        exclude: bool of the same shape, True in excluded voxels; None excludes nothing. The intensities there must
            already be replaced, see :func:`scripts.data.exclusion.filled`.
        labels: integers of the same shape; equal numbers in both images are pairs of regions. None without.
    """

    image: NDArray
    geometry: Geometry
    exclude: NDArray | None = None
    labels: NDArray | None = None


@dataclass(frozen=True, eq=False)
class Matched:
    """An image as the search compares it.

    Attributes:
        image: intensities, perhaps normalised locally.
        body: uint8, 1 in the body, without excluded voxels.
        parts: uint8, 0 in excluded voxels, 2 in the body, 1 elsewhere.
        labels: uint16 pairs of regions, or None.
    """

    image: sitk.Image
    body: sitk.Image
    parts: sitk.Image
    labels: sitk.Image | None = None

    @classmethod
    def of(cls, scan: Scan, normalise: bool) -> Matched:
        body, image = foreground(scan.image), scan.image
        if normalise:
            image = local_normalise(image, body, max(2.0, max(image.shape) / 50))
        look = np.ones_like(body) if scan.exclude is None else ~scan.exclude
        labels = None
        if scan.labels is not None:
            labels = sitk.Cast(to_sitk(np.where(look, scan.labels, 0), scan.geometry), sitk.sitkUInt16)
        body &= look
        masks = (sitk.Cast(to_sitk(m, scan.geometry), sitk.sitkUInt8) for m in (body, look + 1 * body))
        return cls(to_sitk(image, scan.geometry), *masks, labels)

    def coarse(self, side: int) -> Matched:
        """The same image with at most about ``side`` voxels along the longest axis."""
        spacing = self.image.GetSpacing()
        target = max(n * s for n, s in zip(self.image.GetSize(), spacing)) / side
        factors = [max(1, min(n // 4, round(target / s))) for n, s in zip(self.image.GetSize(), spacing)]
        body, look = (
            sitk.BinShrink(sitk.Cast(m, sitk.sitkFloat32), factors) > 0.5 for m in (self.body, self.parts > 0)
        )
        labels = None if self.labels is None else sitk.Shrink(self.labels, factors)
        return Matched(sitk.BinShrink(self.image, factors), body, look + (body & look), labels)

    def mirrored(self, axis: int) -> Matched:
        """The image with the voxels reversed along an array axis of the same grid, as after a wrong header."""
        flip = [i == axis for i in range(self.image.GetDimension())]

        def flipped(image: sitk.Image) -> sitk.Image:
            turned = sitk.Flip(image, flip)
            turned.CopyInformation(image)
            return turned

        labels = None if self.labels is None else flipped(self.labels)
        image, body, parts = (flipped(i) for i in (self.image, self.body, self.parts))
        return replace(self, image=image, body=body, parts=parts, labels=labels)

    @cached_property
    def arrays(self) -> tuple[NDArray, NDArray, NDArray]:
        """The image, whether a voxel is in the body, and whether it counts."""
        image, parts = (sitk.GetArrayViewFromImage(i) for i in (self.image, self.parts))
        return image, parts > 1, parts > 0

    @cached_property
    def volume(self) -> float:
        """Of the body in mm (to the power of the dimensions)."""
        return float(self.arrays[1].sum() * np.prod(self.image.GetSpacing()))

    @cached_property
    def centre(self) -> tuple[float, ...]:
        """Centre of the body, LPS mm."""
        index = np.argwhere(self.arrays[1])[:, ::-1].mean(axis=0)
        return self.image.TransformContinuousIndexToPhysicalPoint(index.tolist())


@dataclass(frozen=True)
class Likeness:
    """How well a transform fits.

    Attributes:
        information: mutual information over the mean entropy, in [0, 1], in the union of the bodies within both images.
        outlines: Dice of the bodies within both images.
        covered: share of the smaller body that overlaps the other.
        regions: mean Dice of the pairs of regions; None without.
    """

    information: float
    outlines: float
    covered: float
    regions: float | None = None

    @property
    def score(self) -> float:
        """One number to compare transforms by; 0 for too little overlap."""
        if self.covered < MIN_OVERLAP:
            return 0.0
        overlap = self.outlines * min(1.0, self.covered) ** 0.5
        return self.information * overlap * (1.0 if self.regions is None else 0.1 + self.regions)


def likeness(fixed: Matched, moving: Matched, transform: sitk.Transform, determinant: float) -> Likeness:
    """Compares the fixed image with the moving one seen through a transform.

    Args:
        fixed: gives the grid.
        moving: the other image.
        transform: fixed to moving points, LPS mm.
        determinant: of the transform.
    """

    def seen(image: sitk.Image, kind: int) -> NDArray:
        return sitk.GetArrayFromImage(sitk.Resample(image, fixed.image, transform, kind, 0.0))

    image, body, look = fixed.arrays
    parts = seen(moving.parts, sitk.sitkNearestNeighbor)
    both = look & (parts > 0)
    other = both & (parts > 1)
    own = body & both
    common = int((own & other).sum())
    smaller = min(fixed.volume, moving.volume / max(abs(determinant), 1e-6)) / np.prod(fixed.image.GetSpacing())
    covered = common / max(smaller, 1.0)
    if covered < MIN_OVERLAP:
        return Likeness(0.0, 0.0, covered)
    either = own | other
    bins = int(np.clip(np.sqrt(body.sum() / PER_BIN), 8, BINS))
    joint = np.histogram2d(image[either], seen(moving.image, sitk.sitkLinear)[either], bins)[0]
    outlines = 2 * common / max(int(own.sum()) + int(other.sum()), 1)
    regions = None
    if fixed.labels is not None and moving.labels is not None:
        regions = _dice(sitk.GetArrayViewFromImage(fixed.labels), seen(moving.labels, sitk.sitkNearestNeighbor), both)
    return Likeness(shared_information(joint), outlines, covered, regions)


def shared_information(joint: NDArray) -> float:
    """Mutual information over the mean of both entropies, in [0, 1], of a joint histogram of counts.

    The information that a few voxels share by chance is subtracted (Miller 1955, "Note on the bias of information
    estimates").
    """
    count = max(joint.sum(), 1)
    parts = [joint.sum(axis=1), joint.sum(axis=0), joint.ravel()]
    shares = [p[p > 0] / count for p in parts]
    a, b, both = (-float((p * np.log(p)).sum()) for p in shares)
    chance = max(0, len(shares[2]) - len(shares[0]) - len(shares[1]) + 1) / (2 * count)
    return max(0.0, 2 * (a + b - both - chance) / max(a + b, 1e-9))


def _dice(a: NDArray, b: NDArray, where: NDArray) -> float | None:
    a, b = a[where], b[where]
    values = np.union1d(a, b)
    scores = [2 * ((a == v) & (b == v)).sum() / ((a == v).sum() + (b == v).sum()) for v in values[values > 0]]
    return float(np.mean(scores)) if scores else None


def to_sitk(image: NDArray, geometry: Geometry) -> sitk.Image:
    """A grey image (X, Y[, Z]) as a SimpleITK image.

    A volume keeps its position. A 2-D image gets its own plane, with millimetres from its first voxel, because a
    plane in space has no two-dimensional direction matrix; :func:`scripts.spatial.affine.world_matrix` undoes this.
    """
    converted = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(image, np.float32).T))
    converted.SetSpacing(geometry.spacing)
    if geometry.ndim == 3:
        placed(converted, geometry)
    return converted


def foreground(image: NDArray) -> NDArray:
    """The largest connected part above the background of an image in [0, 1], holes filled, border peeled: bool."""
    smooth = ndimage.gaussian_filter(np.asarray(image, np.float32), 1.0)  # noise in air is not body
    inside = ndimage.binary_fill_holes(smooth > max(FOREGROUND, DIM * float(threshold_otsu(smooth.ravel()))))
    parts, count = ndimage.label(inside)
    if count > 1:
        inside = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    peeled = ndimage.binary_erosion(inside, iterations=max(1, round(max(image.shape) / 80)), border_value=1)
    return peeled if peeled.any() else np.ones_like(inside)


def local_normalise(image: NDArray, inside: NDArray, sigma: float) -> NDArray:
    """Subtracts the local mean and divides by the local deviation, which removes shading; 0 outside the foreground.

    Args:
        image: (X, Y[, Z]) in [0, 1].
        inside: the foreground.
        sigma: radius of the neighbourhood in voxels.
    """
    weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma) + 1e-3
    mean = ndimage.gaussian_filter(image * inside, sigma) / weight
    square = ndimage.gaussian_filter(image**2 * inside, sigma) / weight
    return np.where(inside, (image - mean) / (np.sqrt(np.maximum(square - mean**2, 0)) + 0.02), 0).astype(np.float32)
