# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Two abdomens: one anatomy seen in CT, and the same organs in another body (affine and a large smooth deformation)."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from .motion import Motion, affine, compose, flow, in_plane
from .pair import PhantomPair, imaging_of, make_pair
from .scene import Tissue, superellipsoid, tube

# Numbered as in the abdominal CT label set of 13 organs; the phantom has these eight.
LABELS = {
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "inferior vena cava": 9,
    "pancreas": 11,
}


def abdomen_scene(rng: np.random.Generator) -> list[Tissue]:
    """Tissues of an upper abdomen in Hounsfield units."""

    def s(spread: float) -> float:
        return rng.normal(0, spread)

    shape = partial(superellipsoid, rng=rng)
    bowel = [
        tube(np.cumsum(np.vstack([start, rng.normal(0, 16, (5, 3))]), axis=0), rng.uniform(9, 13))
        for start in ((-35.0, -45.0, -70.0), (25.0, -50.0, -75.0), (45.0, -30.0, -90.0))
    ]
    pancreas = np.array([[-22.0, -8, -18], [0, -16, -8], [24, -10, 2], [48, 6, 12]]) + rng.normal(0, 2, (4, 3))
    ribs = [
        shape((150 * np.cos(a), 4 + 104 * np.sin(a), z), (9, 5, 26), angle_deg=np.rad2deg(a) + 90)
        for a in np.linspace(-0.5, 3.6, 9)
        for z in (-80, 0, 80)
    ]
    aorta = np.array([[6.0, 30, -200], [4, 28, 0], [2, 30, 200]])
    vena_cava = np.array([[-22.0, 26, -200], [-24, 24, 0], [-22, 12, 200]])
    kidney = (26.0, 20.0, 48.0)
    return [
        Tissue("fat", shape((0, 0, 0), (168, 120, 500), exponent=2.5, lumps=0.02), -98 + s(5), 7, 9),
        Tissue("muscle", shape((0, 4, 0), (152, 104, 500), exponent=2.4, lumps=0.02), 58 + s(4), 9, 7),
        Tissue("visceral fat", shape((0, -4, 0), (140, 90, 500), exponent=2.3, lumps=0.03), -102 + s(5), 12, 8),
        *(Tissue("rib", r, 240.0, 40, 5) for r in ribs),
        Tissue("vertebra", shape((0, 58, 0), (24, 20, 500), exponent=2.6), 165 + s(15), 35, 5),
        Tissue("spinal canal", shape((0, 84, 0), (9, 8, 500)), 20.0, 6, 6),
        Tissue("right psoas", shape((-36, 56, -80), (16, 18, 90)), 62 + s(4), 9, 6),
        Tissue("left psoas", shape((36, 56, -80), (16, 18, 90)), 62 + s(4), 9, 6),
        *(Tissue("bowel", b, 30 + s(20), 30, 9) for b in bowel),
        Tissue("liver", shape((-64, -14, 20), (78, 68, 76), angle_deg=12, lumps=0.1), 112 + s(8), 9, 5, 6),
        Tissue("stomach", shape((52, -40, 34), (48, 36, 52), angle_deg=-20, lumps=0.1), 34 + s(12), 16, 12, 7),
        Tissue("stomach gas", shape((54, -56, 38), (28, 12, 30)), -125.0, 5, 8, 7),
        Tissue("spleen", shape((104, 26, 34), (30, 44, 48), angle_deg=15, lumps=0.08), 122 + s(8), 9, 5, 1),
        Tissue("pancreas", tube(pancreas, 11), 92 + s(8), 16, 5, 11),
        Tissue("right kidney", shape((-62, 50, -38), kidney, angle_deg=-20), 172 + s(12), 16, 7, 2),
        Tissue("left kidney", shape((64, 48, -26), kidney, angle_deg=20), 172 + s(12), 16, 7, 3),
        Tissue("aorta", tube(aorta, 11), 152 + s(10), 6, 9, 8),
        Tissue("inferior vena cava", tube(vena_cava, 12), 128 + s(10), 7, 9, 9),
    ]


def other_body(rng: np.random.Generator, planar: bool) -> Motion:
    """Maps the second subject to the first: size, position and pose, then a large smooth deformation."""
    scale = np.diag(rng.uniform(0.88, 1.14, 3))
    angle = np.deg2rad(rng.uniform(-6, 6))
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    shift = rng.uniform(-12, 12, 3)
    if planar:
        scale[2, 2], shift[2] = 1.0, 0.0
    centers = rng.uniform([-110, -70, -90], [110, 70, 90], (14, 3))
    if planar:
        centers[:, 2] *= 0.2
    velocities = rng.normal(0, 11, (14, 3))
    return compose(affine(turn @ scale, shift), flow(centers, velocities, 38.0, planar=planar))


def abdomen_pair(
    seed: int = 0,
    shape: tuple[int, ...] = (96, 72, 64),
    spacing: tuple[float, ...] = (3.8, 3.8, 3.8),
    *,
    noise: float = 14.0,
    orientation: NDArray | None = None,
    fixed_shape: tuple[int, ...] | None = None,
    fixed_spacing: tuple[float, ...] | None = None,
) -> PhantomPair:
    """An inter-subject abdominal CT pair, 2-D or 3-D by the length of ``shape``.

    Args:
        seed: anatomy, deformation, textures and noise.
        shape: voxels of the moving image (and of the fixed one unless ``fixed_shape`` is given).
        spacing: mm.
        noise: Gaussian noise in HU.
        orientation: rotation (3, 3) of both grids in space.
        fixed_shape: voxels of the fixed image.
        fixed_spacing: mm of the fixed image.
    """
    grids = (shape, spacing), (fixed_shape or shape, fixed_spacing or spacing)
    images = [imaging_of(*grid, background=-1000.0, noise=noise, rician=False, bias=0.0) for grid in grids]
    planar = len(shape) == 2
    rng = np.random.default_rng([seed, 7])
    scene = abdomen_scene(rng)
    motion = other_body(rng, planar)
    return make_pair(scene, in_plane(motion) if planar else motion, *images, "ct", seed, orientation)
