# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Linear transforms: refined with SimpleITK, found by correlation, as homogeneous matrices of LPS millimetres."""

from __future__ import annotations

import itertools

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from .likeness import MIN_OVERLAP, Matched

PEAKS = 4
SAMPLES, SEED = 20_000, 1


def refine(fixed: Matched, moving: Matched, matrix: NDArray, similar: bool, shrink: list[int]) -> NDArray | None:
    """Maximises the mutual information over a pyramid with SimpleITK; None if the images stop overlapping.

    Args:
        fixed: the fixed image.
        moving: the moving image.
        matrix: (n + 1, n + 1) start, fixed to moving points, LPS mm; a similarity if ``similar``.
        similar: rotation, one size and shift only, otherwise an affine.
        shrink: factors of the levels.
    """
    n = fixed.image.GetDimension()
    transform = sitk.AffineTransform(n)
    if similar:
        transform = sitk.Similarity2DTransform() if n == 2 else sitk.Similarity3DTransform()
    transform.SetCenter(fixed.centre)
    transform.SetMatrix(matrix[:n, :n].flatten().tolist(), *([1e-6] if similar else []))
    centre = np.asarray(fixed.centre)
    transform.SetTranslation((matrix[:n, :n] @ centre + matrix[:n, n] - centre).tolist())
    method = sitk.ImageRegistrationMethod()
    # Several threads add up the metric in varying order, which would change the result from run to run.
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    voxels = fixed.image.GetNumberOfPixels()
    # Even regular samples are jittered; without a seed the result would change from run to run.
    method.SetMetricSamplingPercentagePerLevel([min(1.0, SAMPLES * s**n / voxels) for s in shrink], SEED)
    method.SetMetricFixedMask(fixed.body)
    method.SetMetricMovingMask(moving.body)
    method.SetInterpolator(sitk.sitkLinear)
    voxel = max(fixed.image.GetSpacing())
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=0.5 * voxel, minStep=0.01 * voxel, numberOfIterations=80, relaxationFactor=0.6
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
    return as_matrix(transform)


def translation_peaks(fixed: Matched, moving: Matched, size: float = 1.0) -> list[NDArray]:
    """Translations (mm, LPS) at the highest peaks of the masked correlation over all shifts of the moving image.

    Peaks of either sign count, because the contrast of one image may be inverted. The fixed body is ``size`` times as
    large in the moving image; the translations follow a change of size about the world's origin.
    """
    moved, body = (_shrunk(image, size) for image in (moving.image, moving.body))
    # The search needs both images on one grid, so the moving image is first resampled to the fixed axes and spacing.
    ends = [(0.0, n - 1.0) for n in moved.GetSize()]
    world = [moved.TransformContinuousIndexToPhysicalPoint(c) for c in itertools.product(*ends)]
    index = np.array([fixed.image.TransformPhysicalPointToContinuousIndex(p) for p in world])
    low, high = np.floor(index.min(axis=0)), np.ceil(index.max(axis=0))
    grid = [int(v) for v in high - low + 1]
    origin = fixed.image.TransformContinuousIndexToPhysicalPoint(low.tolist())
    shape = (grid, sitk.Transform(), sitk.sitkLinear, origin, fixed.image.GetSpacing(), fixed.image.GetDirection(), 0.0)
    images = [sitk.GetArrayFromImage(i) for i in (fixed.image, sitk.Resample(moved, *shape))]
    masks = [sitk.GetArrayFromImage(m) > 0.5 for m in (fixed.body, sitk.Resample(body, *shape))]
    flat = [sitk.GetImageFromArray(x.astype(np.float32)) for x in (*images, *masks)]
    correlation = np.abs(sitk.GetArrayFromImage(sitk.MaskedFFTNormalizedCorrelation(*flat, 0, MIN_OVERLAP)).T)
    highest = ndimage.maximum_filter(correlation, size=5) == correlation
    places = np.argwhere(highest & (correlation > 0))
    places = places[np.argsort(correlation[tuple(places.T)])[::-1][:PEAKS]]
    direction = np.asarray(fixed.image.GetDirection()).reshape(len(grid), -1) * fixed.image.GetSpacing()
    # At offset 0 the last moving voxel meets the first fixed one: fixed x corresponds to moving x - shift.
    shifts = places - (np.asarray(grid) - 1)
    start = np.asarray(origin) - np.asarray(fixed.image.GetOrigin())
    return [size * (start - direction @ shift) for shift in shifts]


def _shrunk(image: sitk.Image, size: float) -> sitk.Image:
    """The image with all coordinates divided by ``size``."""
    small = sitk.Image(image)
    small.SetSpacing([s / size for s in image.GetSpacing()])
    small.SetOrigin([o / size for o in image.GetOrigin()])
    return small


def reflection(image: sitk.Image, axis: int) -> NDArray:
    """Homogeneous matrix that mirrors points (LPS mm) at the middle of an image, across an array axis."""
    n = image.GetDimension()
    normal = np.asarray(image.GetDirection()).reshape(n, n)[:, axis]
    middle = image.TransformContinuousIndexToPhysicalPoint([(s - 1) / 2 for s in image.GetSize()])
    return about(np.eye(n) - 2 * np.outer(normal, normal), np.asarray(middle), np.zeros(n))


def as_itk(matrix: NDArray) -> sitk.AffineTransform:
    """A homogeneous matrix as a transform."""
    n = len(matrix) - 1
    transform = sitk.AffineTransform(n)
    transform.SetMatrix(matrix[:n, :n].flatten().tolist())
    transform.SetTranslation(matrix[:n, n].tolist())
    return transform


def as_matrix(transform: sitk.Transform) -> NDArray:
    """(n + 1, n + 1) homogeneous matrix of a linear transform, LPS mm."""
    n = transform.GetDimension()
    origin = np.array(transform.TransformPoint([0.0] * n))
    matrix = np.eye(n + 1)
    matrix[:n, :n] = np.stack([np.array(transform.TransformPoint(list(e))) - origin for e in np.eye(n)], axis=1)
    matrix[:n, n] = origin
    return matrix


def about(linear: NDArray, centre: NDArray, shift: NDArray) -> NDArray:
    """Homogeneous matrix of x -> linear (x - centre) + centre + shift."""
    n = len(linear)
    matrix = np.eye(n + 1)
    matrix[:n, :n], matrix[:n, n] = linear, centre + shift - linear @ centre
    return matrix
