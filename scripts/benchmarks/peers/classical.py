# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Classical registration tools behind one call, for comparison: demons, B-splines, SyN (ANTs), elastix.

A tool is a dataclass of its parameters that is called with two images on one grid and returns the field. The defaults
of both demons and of elastix are the best on training patients (``python -m scripts.benchmarks.peers.tuning``); the
others have not been tuned, see docs/reproduce.md.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

# Called with the moving and the fixed image (*shape) in [0, 1] on one grid and its spacing in mm; the result is the
# DDF (1, n, *shape) in voxels.
Tool = Callable[[Tensor, Tensor, Sequence[float]], Tensor]


def itk_image(image: Tensor, spacing: Sequence[float]) -> sitk.Image:
    """An image (*shape) at the origin, axes along the axes of its array, so that mm become voxels by division."""
    made = sitk.GetImageFromArray(np.ascontiguousarray(image.numpy().astype(np.float32).T))
    made.SetSpacing([float(s) for s in spacing])
    return made


def ddf_of(field: sitk.Image) -> Tensor:
    """The DDF (1, n, *shape) in voxels of a vector image in mm on such a grid."""
    array = sitk.GetArrayFromImage(field) / np.asarray(field.GetSpacing())
    return torch.from_numpy(np.ascontiguousarray(array.T)[None].astype(np.float32))


def field_of(transform: sitk.Transform, grid: sitk.Image) -> sitk.Image:
    """The displacement of a transform in mm at every voxel of a grid."""
    return sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    )


def shrunken(image: sitk.Image, factor: int) -> sitk.Image:
    """An image smoothed and coarsened to about ``factor`` times its finest spacing; thick slices are left unchanged."""
    finest = min(image.GetSpacing())
    factors = [max(1, round(factor * finest / mm)) for mm in image.GetSpacing()]
    sigmas = [mm * (f - 1) / 2 for f, mm in zip(factors, image.GetSpacing())]
    smooth = sitk.DiscreteGaussian(image, [s**2 for s in sigmas]) if any(sigmas) else image
    return sitk.Shrink(smooth, factors)


def missing_package(tool: Tool | None) -> str | None:
    """The package that a tool still needs; None if nothing is missing."""
    needs = getattr(tool, "needs", None)
    return needs[1] if needs and importlib.util.find_spec(needs[0]) is None else None


@dataclass(frozen=True)
class Demons:
    """Multi-resolution demons of SimpleITK.

    Attributes:
        diffeomorphic: diffeomorphic demons (Vercauteren et al. 2009); otherwise those with fast symmetric forces.
        sigma_mm: of the Gaussian that smooths the displacement after every iteration.
        update_sigma_mm: of the one that smooths the update.
        shrink: resolutions, as multiples of the finest spacing.
        iterations: at each resolution.
    """

    diffeomorphic: bool = False
    sigma_mm: float = 4.5
    update_sigma_mm: float = 0.0
    shrink: Sequence[int] = (4, 2, 1)
    iterations: int = 50

    def __call__(self, moving: Tensor, fixed: Tensor, spacing: Sequence[float]) -> Tensor:
        """Registers two images (*shape) in [0, 1] on one grid with a spacing in mm; DDF (1, n, *shape) in voxels."""
        moving_image, fixed_image = (itk_image(x * 255, spacing) for x in (moving, fixed))
        kind = "DiffeomorphicDemons" if self.diffeomorphic else "FastSymmetricForcesDemons"
        field = None
        for factor in self.shrink:
            small = shrunken(fixed_image, factor)
            method = getattr(sitk, f"{kind}RegistrationFilter")()
            method.SetNumberOfIterations(self.iterations)
            method.SetSmoothDisplacementField(self.sigma_mm > 0)
            method.SetStandardDeviations([max(self.sigma_mm, 1e-3) / mm for mm in small.GetSpacing()])
            method.SetSmoothUpdateField(self.update_sigma_mm > 0)
            method.SetUpdateFieldStandardDeviations([max(self.update_sigma_mm, 1e-3) / mm for mm in small.GetSpacing()])
            start = [] if field is None else [_carry(field, small)]
            field = method.Execute(small, shrunken(moving_image, factor), *start)
        return ddf_of(field)


def _carry(field: sitk.Image, grid: sitk.Image) -> sitk.Image:
    """A field in mm on a finer grid; outside it is extended with the values at its border."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(grid)
    resampler.UseNearestNeighborExtrapolatorOn()
    return resampler.Execute(field)


@dataclass(frozen=True)
class BSpline:
    """Free-form deformation of SimpleITK, coarse to fine, gradient descent with line search (Rueckert et al. 1999).

    Attributes:
        control_mm: distance of the control points at the finest level.
        levels: each of twice the distance of the next.
        metric: "correlation", "mattes" or "squares".
        iterations: at each level.
        samples: share of the voxels that the metric looks at.
    """

    control_mm: float = 16.0
    levels: int = 3
    metric: str = "correlation"
    iterations: int = 50
    samples: float = 1.0

    def __call__(self, moving: Tensor, fixed: Tensor, spacing: Sequence[float]) -> Tensor:
        """See :meth:`Demons.__call__`."""
        moving_image, fixed_image = (itk_image(x, spacing) for x in (moving, fixed))
        coarsest = self.control_mm * 2 ** (self.levels - 1)
        mesh = [max(1, round(n * mm / coarsest)) for n, mm in zip(fixed_image.GetSize(), spacing)]
        transform = sitk.BSplineTransformInitializer(fixed_image, mesh)
        method = sitk.ImageRegistrationMethod()
        {
            "correlation": method.SetMetricAsCorrelation,
            "mattes": method.SetMetricAsMattesMutualInformation,
            "squares": method.SetMetricAsMeanSquares,
        }[self.metric]()
        if self.samples < 1:
            method.SetMetricSamplingStrategy(method.REGULAR)
            method.SetMetricSamplingPercentage(self.samples)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsGradientDescentLineSearch(
            5.0, self.iterations, convergenceMinimumValue=1e-4, convergenceWindowSize=5
        )
        # Smoothing alone: ITK would shrink the few thick slices as much as the pixels.
        method.SetShrinkFactorsPerLevel([1] * self.levels)
        method.SetSmoothingSigmasPerLevel([min(spacing) * (2**n - 1) for n in reversed(range(self.levels))])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        scale = [2**n for n in range(self.levels)]
        method.SetInitialTransformAsBSpline(transform, inPlace=True, scaleFactors=scale)
        return ddf_of(field_of(method.Execute(fixed_image, moving_image), fixed_image))


@dataclass(frozen=True)
class SyN:
    """Symmetric normalisation of ANTs (Avants et al. 2008), by antspyx.

    Attributes:
        gradient_step: of an iteration.
        flow_sigma: of the Gaussian that smooths the update, in voxels.
        total_sigma: of the one that smooths the displacement, in voxels.
        radius: of the window of the cross-correlation in voxels.
        iterations: at 4, 2 and 1 times the voxel size.
    """

    gradient_step: float = 0.2
    flow_sigma: float = 3.0
    total_sigma: float = 0.0
    radius: int = 4
    iterations: Sequence[int] = (100, 70, 40)
    needs: ClassVar[tuple[str, str]] = ("ants", "antspyx")

    def __call__(self, moving: Tensor, fixed: Tensor, spacing: Sequence[float]) -> Tensor:
        """See :meth:`Demons.__call__`."""
        import ants

        images = [ants.from_numpy(x.numpy().astype(np.float32), spacing=tuple(spacing)) for x in (moving, fixed)]
        with tempfile.TemporaryDirectory() as folder:
            result = ants.registration(
                images[1],
                images[0],
                "SyNOnly",
                initial_transform="Identity",
                outprefix=f"{folder}/syn_",
                grad_step=self.gradient_step,
                flow_sigma=self.flow_sigma,
                total_sigma=self.total_sigma,
                syn_metric="CC",
                syn_sampling=self.radius,
                reg_iterations=tuple(self.iterations),
                singleprecision=True,
                random_seed=1,
            )
            fields = [path for path in result["fwdtransforms"] if path.endswith("Warp.nii.gz")]
            return ddf_of(sitk.ReadImage(fields[0], sitk.sitkVectorFloat64))


@dataclass(frozen=True)
class Elastix:
    """Free-form deformation of elastix (Klein et al. 2010), by itk-elastix: default B-splines and a bending penalty.

    Attributes:
        control_mm: distance of the control points at the finest level.
        bending: weight of the bending energy.
        iterations: at each of three levels.
    """

    control_mm: float = 12.0
    bending: float = 0.0
    iterations: int = 256
    needs: ClassVar[tuple[str, str]] = ("itk", "itk-elastix")

    def __call__(self, moving: Tensor, fixed: Tensor, spacing: Sequence[float]) -> Tensor:
        """See :meth:`Demons.__call__`."""
        import itk

        images = []
        for x in (moving, fixed):
            images.append(itk.image_from_array(np.ascontiguousarray((x.numpy() * 255).astype(np.float32).T)))
            images[-1].SetSpacing([float(s) for s in spacing])
        settings = itk.ParameterObject.New()
        values = settings.GetDefaultParameterMap("bspline", 3, self.control_mm)
        values["MaximumNumberOfIterations"] = [str(self.iterations)]
        values["ImagePyramidSchedule"] = [
            str(2**n if mm < 2 * min(spacing) else 1) for n in (2, 1, 0) for mm in spacing
        ]
        values["RandomSeed"] = ["1"]
        if self.bending:
            values["Registration"] = ["MultiMetricMultiResolutionRegistration"]
            values["Metric"] = ["AdvancedMattesMutualInformation", "TransformBendingEnergyPenalty"]
            values["Metric1Weight"] = [str(self.bending)]
        else:
            values["Registration"] = ["MultiResolutionRegistration"]
            values["Metric"] = ["AdvancedMattesMutualInformation"]
        settings.AddParameterMap(values)
        with tempfile.TemporaryDirectory() as folder:
            _, found = itk.elastix_registration_method(
                images[1], images[0], parameter_object=settings, log_to_console=False, output_directory=folder
            )
            field = itk.transformix_deformation_field(images[0], found, log_to_console=False, output_directory=folder)
            path = str(Path(folder) / "field.nrrd")
            itk.imwrite(field, path)
            return ddf_of(sitk.ReadImage(path, sitk.sitkVectorFloat64))


TOOLS = {
    "demons": Demons(),
    "diffeomorphic_demons": Demons(diffeomorphic=True, sigma_mm=2.0),
    "bspline": BSpline(),
    "syn": SyN(),
    "elastix": Elastix(),
}
