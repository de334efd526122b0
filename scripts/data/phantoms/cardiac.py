# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A beating heart in short-axis view: end-diastole is the moving image, end-systole the fixed one."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from .motion import Motion, affine, compose, in_plane, radial
from .pair import PhantomPair, imaging_of, make_pair
from .scene import Tissue, superellipsoid, tube, without

LABELS = {"right ventricle": 1, "myocardium": 2, "left ventricle": 3}
# Tissue numbers of `cardiac_scene` that form one object: cavity with papillary muscles, whole left and right ventricle.
TISSUE_GROUPS = ((13, 14, 15), (12, 13, 14, 15), (10, 11))
_LV = np.array([12.0, -2.0])  # axis of the left ventricle in the axial plane, mm
_EQUATOR_MM, _LENGTH_MM = 28.0, 85.0  # height of the widest part of a ventricle, and its distance to the apex


def _long_axis_radius(equator_mm: float):
    """Radius of a prolate ventricle at height z: full near the base, closing at the apex below."""
    return lambda z: equator_mm * np.sqrt(1 - np.clip((_EQUATOR_MM - z) / _LENGTH_MM, 0.0, 0.93) ** 2)


def _ventricle(center: NDArray, radius, stretch: tuple[float, float]):
    def inside(points: NDArray) -> NDArray:
        offset = (points[:, :2] - center) / np.asarray(stretch)
        return (offset**2).sum(axis=1) < radius(points[:, 2]) ** 2

    return inside


def cardiac_scene(rng: np.random.Generator, epi_mm: float, endo_mm: float) -> list[Tissue]:
    """Tissues of a thorax with a heart, in the frame of end-diastole."""
    epi = _ventricle(_LV, _long_axis_radius(epi_mm), (1.0, 1.0))
    endo = _ventricle(_LV, _long_axis_radius(endo_mm), (1.0, 1.0))
    right_center = _LV - np.array([epi_mm * 0.98, epi_mm * 0.30])
    right_outer = _ventricle(right_center, _long_axis_radius(epi_mm * 0.95), (1.05, 0.95))
    right_inner = _ventricle(right_center, _long_axis_radius(epi_mm * 0.85), (1.05, 0.95))
    papillary = [
        tube(np.array([[*(_LV + endo_mm * 0.6 * np.array([np.cos(a), np.sin(a)])), z] for z in (-40.0, 20.0)]), 3.2)
        for a in rng.uniform([0.3, 2.2], [0.9, 2.9])
    ]
    s = rng.uniform(0.9, 1.1, 12)
    shape = partial(superellipsoid, rng=rng)
    return [
        Tissue("fat", shape((0, 8, 0), (140, 105, 400), exponent=2.6, lumps=0.02), 620 * s[0], 25, 10),
        Tissue("muscle", shape((0, 8, 0), (118, 88, 400), exponent=2.4, lumps=0.03), 230 * s[1], 25, 7),
        Tissue("right lung", shape((-72, 20, 0), (42, 66, 300), lumps=0.07), 55 * s[2], 14, 6),
        Tissue("left lung", shape((78, 22, 0), (38, 60, 300), lumps=0.07), 50 * s[3], 14, 6),
        Tissue("mediastinum", shape((4, 2, 0), (66, 56, 300), lumps=0.05), 330 * s[4], 40, 12),
        Tissue("liver", shape((-52, -4, -62), (58, 62, 52), lumps=0.05), 270 * s[5], 22, 5),
        Tissue("stomach", shape((60, -14, -78), (34, 30, 48)), 420 * s[6], 50, 15),
        Tissue("vertebra", shape((-6, 66, 0), (19, 15, 300), exponent=3), 300 * s[7], 45, 6),
        Tissue("descending aorta", shape((20, 48, 0), (11, 11, 300), lumps=0.02), 700 * s[8], 30, 8),
        Tissue("right ventricular wall", without(right_outer, right_inner, epi), 215 * s[9], 18, 6),
        Tissue("right ventricle", without(right_inner, epi), 640 * s[10], 45, 12, LABELS["right ventricle"]),
        Tissue("myocardium", without(epi, endo), 200 * s[9], 18, 6, LABELS["myocardium"]),
        Tissue("left ventricle", endo, 690 * s[11], 40, 14, LABELS["left ventricle"]),
        # Papillary muscles are dark but belong to the cavity in the ACDC convention.
        *(
            Tissue("left ventricle", without(p, lambda q: ~endo(q)), 260.0, 15, 6, LABELS["left ventricle"])
            for p in papillary
        ),
    ]


def beat(rng: np.random.Generator, epi_mm: float, endo_mm: float) -> Motion:
    """Maps end-systole to end-diastole: cavity, wall, right ventricle and base move."""
    ed, es = endo_mm / epi_mm, endo_mm / epi_mm * rng.uniform(0.56, 0.72)
    left = radial(
        _LV, _long_axis_radius(epi_mm), np.array([[es, ed], [0.95, 1.0], [1.5, 1.5]]), twist_deg=rng.uniform(4, 9)
    )
    right_center = _LV - np.array([epi_mm * 1.25, epi_mm * 0.38])
    right = radial(
        right_center, _long_axis_radius(epi_mm * 0.5), np.array([[0.55, rng.uniform(0.70, 0.78)], [1.8, 1.8]])
    )
    shift = rng.uniform(-1.5, 1.5, 3) * (1, 1, 0.5)
    return compose(affine(np.eye(3), shift), left, right)


def cardiac_pair(
    seed: int = 0,
    shape: tuple[int, ...] = (128, 128, 10),
    spacing: tuple[float, ...] = (1.5, 1.5, 8.0),
    *,
    noise: float = 24.0,
    bias: float = 0.25,
    orientation: NDArray | None = None,
    fixed_shape: tuple[int, ...] | None = None,
    fixed_spacing: tuple[float, ...] | None = None,
) -> PhantomPair:
    """A short-axis pair, 2-D or 3-D by the length of ``shape``; labels are numbered as in ACDC.

    Args:
        seed: anatomy, motion, textures and noise.
        shape: voxels of the moving image (and of the fixed one unless ``fixed_shape`` is given).
        spacing: mm.
        noise: Rician noise, on a scale where blood is about 650.
        bias: relative amplitude of the coil sensitivity.
        orientation: rotation (3, 3) of both grids in space.
        fixed_shape: voxels of the fixed image.
        fixed_spacing: mm of the fixed image.
    """
    grids = (shape, spacing), (fixed_shape or shape, fixed_spacing or spacing)
    images = [imaging_of(*grid, background=12.0, noise=noise, rician=True, bias=bias) for grid in grids]
    rng = np.random.default_rng(seed)
    epi_mm = rng.uniform(33, 38)
    endo_mm = epi_mm - rng.uniform(8.5, 11)
    scene = cardiac_scene(rng, epi_mm, endo_mm)
    motion = beat(rng, epi_mm, endo_mm)
    return make_pair(scene, in_plane(motion) if len(shape) == 2 else motion, *images, "mr", seed, orientation)
