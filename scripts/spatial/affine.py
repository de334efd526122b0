# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Initial alignment with SimpleITK: moments, an intensity-based affine, or a transform from a file.

The affine must cope with fields of view that overlap only in part: several starts (as scanned, centres of mass, peaks
of the masked correlation over all translations) are refined roughly, the best few are refined to full affines, and the
one with the highest mutual information wins. Pictures are normalised locally first, because shading dominates them.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from ..common.errors import InputError
from .files import load_itk_transform, load_numbers
from .geometry import LPS, Geometry, usable
from .itk_images import placed

INITS = ("none", "moments", "affine")
FOREGROUND = 0.04  # windowed intensities above this belong to the patient
MIN_OVERLAP = 0.3  # smallest share of a foreground that a start must cover
SEARCH_SIDE = 48  # voxels along the longest side of the exhaustive search
PEAKS = 2
FINALISTS = 3  # a small overlap favours wrong starts at low resolution, so the best few are refined
BINS = 24
SEED = 1


def to_sitk(image: NDArray, geometry: Geometry) -> sitk.Image:
    """A grey image (X, Y[, Z]) as a SimpleITK image.

    A volume keeps its position. A 2-D image gets a plane of its own, with millimetres from its first voxel, because a
    plane in space has no two-dimensional direction matrix; :func:`world_transform` undoes this.
    """
    converted = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(image, np.float32).T))
    converted.SetSpacing(geometry.spacing)
    if geometry.ndim == 3:
        placed(converted, geometry)
    return converted


def world_transform(transform: sitk.Transform, fixed: Geometry, moving: Geometry) -> NDArray:
    """(4, 4) fixed world to moving world in RAS mm, of a linear transform between :func:`to_sitk` images."""
    if fixed.ndim == 3:
        return transform_matrix(transform)
    plane = LPS @ transform_matrix(transform) @ LPS
    to_mm = [np.diag([*g.spacing, 1.0, 1.0]) for g in (fixed, moving)]
    return moving.affine @ np.linalg.inv(to_mm[1]) @ plane @ to_mm[0] @ np.linalg.inv(fixed.affine)


def transform_matrix(transform: sitk.Transform) -> NDArray:
    """(4, 4) RAS matrix of a linear SimpleITK transform of 2 or 3 dimensions, which maps LPS points."""
    n = transform.GetDimension()
    origin = np.array(transform.TransformPoint([0.0] * n))
    columns = [np.array(transform.TransformPoint(list(np.eye(n)[i]))) - origin for i in range(n)]
    matrix = np.eye(4)
    matrix[:n, :n] = np.stack(columns, axis=1)
    matrix[:n, 3] = origin
    return LPS @ matrix @ LPS


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An image ready for matching, and its foreground."""

    image: sitk.Image
    mask: sitk.Image

    @classmethod
    def of(cls, image: NDArray, geometry: Geometry, normalise: bool) -> _Prepared:
        inside = foreground(image)
        if normalise:
            image = local_normalise(image, inside, max(2.0, max(image.shape) / 50))
        return cls(to_sitk(image, geometry), sitk.Cast(to_sitk(inside, geometry), sitk.sitkUInt8))

    def coarse(self, side: int) -> _Prepared:
        """The same image with about ``side`` voxels along the longest axis."""
        factors = [max(1, n // side) for n in self.image.GetSize()]
        mask = sitk.Cast(sitk.BinShrink(sitk.Cast(self.mask, sitk.sitkFloat32), factors) > 0.5, sitk.sitkUInt8)
        return _Prepared(sitk.BinShrink(self.image, factors), mask)


def align(fixed: NDArray, fixed_geometry: Geometry, moving: NDArray, moving_geometry: Geometry, init: str) -> NDArray:
    """Finds the initial transform.

    Args:
        fixed: (X, Y[, Z]) grey image windowed to [0, 1].
        fixed_geometry: its grid.
        moving: grey image of the same number of dimensions.
        moving_geometry: its grid.
        init: "none", "moments" (centres of mass), "affine", or the path of a file: a (4, 4) text matrix in RAS mm, or
            an ITK transform; fixed world to moving world.

    Returns:
        (4, 4) float64, fixed world to moving world, RAS mm.

    Raises:
        ValueError: neither a known word nor a readable linear transform.
    """
    if init == "none":
        return np.eye(4)
    if init not in INITS:
        return read_linear(init)
    moments = sitk.AffineTransform(
        sitk.CenteredTransformInitializer(
            to_sitk(fixed, fixed_geometry),
            to_sitk(moving, moving_geometry),
            sitk.AffineTransform(fixed_geometry.ndim),
            sitk.CenteredTransformInitializerFilter.MOMENTS,
        )
    )
    if init == "moments":
        return world_transform(moments, fixed_geometry, moving_geometry)
    ndim = fixed_geometry.ndim
    images = (fixed, fixed_geometry), (moving, moving_geometry)
    normal = [_Prepared.of(*i, normalise=True) for i in images]
    matched = normal if ndim == 2 else [_Prepared.of(*i, normalise=False) for i in images]
    coarse = [i.coarse(SEARCH_SIDE) for i in matched]
    shifts = [[0.0] * ndim, moments.GetTranslation(), *translation_peaks(*coarse)]
    if ndim == 3:
        shifts += translation_peaks(*(i.coarse(SEARCH_SIDE) for i in normal))
    with ThreadPoolExecutor() as pool:
        similarities = [_similarity(moments.GetCenter(), shift) for shift in shifts]
        refined = pool.map(lambda t: _refine(*coarse, t, [1]), similarities)
    refined = [moments, *(t for t in refined if t is not None)]
    refined.sort(key=lambda t: mutual_information(*coarse, t), reverse=True)
    starts = [_affine(t) for t in refined[:FINALISTS]]
    with ThreadPoolExecutor() as pool:
        ends = pool.map(lambda t: _refine(*matched, sitk.AffineTransform(t), [4, 2, 1]), starts)
    finals = [t for pair in zip(starts, ends) for t in pair]
    chosen = max((t for t in finals if t is not None), key=lambda t: mutual_information(*matched, t))
    return world_transform(chosen, fixed_geometry, moving_geometry)


def foreground(image: NDArray) -> NDArray:
    """The largest connected part above the background of an image in [0, 1], holes filled, border peeled: bool."""
    inside = ndimage.binary_fill_holes(image > FOREGROUND)
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


def translation_peaks(fixed: _Prepared, moving: _Prepared) -> list[list[float]]:
    """Translations (mm, LPS) at the highest peaks of the masked correlation over all shifts of the moving image."""
    # The search needs both images on one grid, so the moving image is first resampled to the fixed axes and spacing.
    ends = [(0.0, n - 1.0) for n in moving.image.GetSize()]
    corners = np.stack(np.meshgrid(*ends), axis=-1).reshape(-1, len(ends)).tolist()
    world = [moving.image.TransformContinuousIndexToPhysicalPoint(c) for c in corners]
    index = np.array([fixed.image.TransformPhysicalPointToContinuousIndex(p) for p in world])
    low, high = np.floor(index.min(axis=0)), np.ceil(index.max(axis=0))
    grid = [int(v) for v in high - low + 1]
    origin = fixed.image.TransformContinuousIndexToPhysicalPoint(low.tolist())
    shape = (grid, sitk.Transform(), sitk.sitkLinear, origin, fixed.image.GetSpacing(), fixed.image.GetDirection(), 0.0)
    images = [sitk.GetArrayFromImage(i) for i in (fixed.image, sitk.Resample(moving.image, *shape))]
    masks = [sitk.GetArrayFromImage(m) > 0.5 for m in (fixed.mask, sitk.Resample(moving.mask, *shape))]
    flat = [sitk.GetImageFromArray(x.astype(np.float32)) for x in (*images, *masks)]
    correlation = sitk.GetArrayFromImage(sitk.MaskedFFTNormalizedCorrelation(*flat, 0, MIN_OVERLAP)).T
    highest = ndimage.maximum_filter(correlation, size=5) == correlation
    places = np.argwhere(highest & (correlation > 0))
    places = places[np.argsort(correlation[tuple(places.T)])[::-1][:PEAKS]]
    direction = np.asarray(fixed.image.GetDirection()).reshape(len(grid), -1) * fixed.image.GetSpacing()
    # At offset 0 the last moving voxel meets the first fixed one: fixed x corresponds to moving x - shift.
    shifts = places - (np.asarray(grid) - 1)
    start = np.asarray(origin) - np.asarray(fixed.image.GetOrigin())
    return [(start - direction @ shift).tolist() for shift in shifts]


def _similarity(center, translation) -> sitk.Transform:
    transform = sitk.Similarity2DTransform() if len(center) == 2 else sitk.Similarity3DTransform()
    transform.SetCenter(center)
    transform.SetTranslation([float(v) for v in translation])
    return transform


def _affine(similar: sitk.Transform) -> sitk.Transform:
    affine = sitk.AffineTransform(similar.GetDimension())
    affine.SetCenter(similar.GetCenter())
    affine.SetMatrix(similar.GetMatrix())
    affine.SetTranslation(similar.GetTranslation())
    return affine


def _refine(fixed: _Prepared, moving: _Prepared, transform: sitk.Transform, shrink: list[int]) -> sitk.Transform | None:
    """Maximises the mutual information over a pyramid; None if the images stop overlapping."""
    method = sitk.ImageRegistrationMethod()
    # Several threads add up the metric in varying order, which would change the result from run to run.
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    voxels = fixed.image.GetNumberOfPixels()
    # Regular samples are jittered, too; without a seed the result would change from run to run.
    method.SetMetricSamplingPercentagePerLevel([min(1.0, 60_000 * s / voxels * 2) for s in shrink], SEED)
    method.SetMetricFixedMask(fixed.mask)
    method.SetMetricMovingMask(moving.mask)
    method.SetInterpolator(sitk.sitkLinear)
    voxel = max(fixed.image.GetSpacing())
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=0.5 * voxel, minStep=0.01 * voxel, numberOfIterations=100, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([s / 2 if s > 1 else 0.0 for s in shrink])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(False)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed.image, moving.image)
    except RuntimeError:  # "All samples map outside moving image buffer", SimpleITK has no type for it
        return None
    return transform


def mutual_information(fixed: _Prepared, moving: _Prepared, transform: sitk.Transform) -> float:
    """Mutual information (nats) over both foregrounds; minus infinity if they overlap less than MIN_OVERLAP.

    The metric values of the optimiser are not comparable between starts, because their samples differ.
    """
    moved, covered = (
        sitk.GetArrayFromImage(sitk.Resample(i, fixed.image, transform, kind, 0.0))
        for i, kind in ((moving.image, sitk.sitkLinear), (moving.mask, sitk.sitkNearestNeighbor))
    )
    inside = sitk.GetArrayFromImage(fixed.mask) > 0
    both = inside & (covered > 0)
    volume = np.prod(moving.mask.GetSpacing()) / np.prod(fixed.mask.GetSpacing())
    smaller = min(inside.sum(), (sitk.GetArrayFromImage(moving.mask) > 0).sum() * volume)
    if both.sum() < MIN_OVERLAP * smaller:
        return float("-inf")
    joint = np.histogram2d(sitk.GetArrayFromImage(fixed.image)[both], moved[both], BINS)[0]
    joint /= joint.sum()
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())


def read_linear(path: str) -> NDArray:
    """Reads a linear transform: a (4, 4) text matrix in RAS mm, or an ITK transform file (.tfm, .txt, .mat, .h5)."""
    if not os.path.isfile(path):
        raise ValueError(f"init must be {', '.join(INITS)} or the path of a transform, and {path!r} is not a file.")
    matrix = load_numbers(path)
    if matrix.shape != (4, 4) or not np.allclose(matrix[3], [0, 0, 0, 1]):
        try:
            transform = load_itk_transform(path)
        except InputError as error:
            raise ValueError(f"{path} is neither a 4 x 4 matrix nor an ITK transform.") from error
        if not transform.IsLinear():
            raise ValueError(f"{path} holds a {transform.GetName()}; an initial alignment must be linear.")
        matrix = transform_matrix(transform)
    if not usable(matrix):
        raise ValueError(f"{path} holds an affine that is not finite, or cannot be inverted; correct it.")
    return matrix
