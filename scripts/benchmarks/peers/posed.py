# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Phantom pairs in random poses: another position, size, contrast, field of view and voxel size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ...data.phantoms.abdomen import abdomen_scene
from ...data.phantoms.cardiac import beat, cardiac_scene
from ...data.phantoms.motion import affine, compose, flow
from ...data.phantoms.pair import Imaging, PhantomPair, make_pair
from ...spatial.geometry import apply_affine

KINDS = ("abdomen", "chest")
CONTRASTS = ("same", "gamma", "inverted", "folded")
MOST_DEG, MOST_MM, SCALES = 30.0, 60.0, (0.8, 1.25)
BLOOD, SOFT_HU = 750.0, (-125.0, 275.0)  # intensities that become 1, and the window that becomes 0 to 1


@dataclass(frozen=True, eq=False)
class PosedPair:
    """A phantom pair and its random parameters.

    Attributes:
        pair: the images, labels, landmarks and the true field.
        kind: of ``KINDS``.
        contrast: of the fixed image, of ``CONTRASTS``.
        pose: (4, 4) fixed world to moving world in RAS mm: rotation, size and shift without the deformation.
        best: (4, 4) the affine that is nearest to the true field in the body, which no affine start can beat.
    """

    pair: PhantomPair
    kind: str
    contrast: str
    pose: NDArray
    best: NDArray

    @property
    def body(self) -> NDArray:
        """(N, 3) places in the body in RAS mm of the fixed image."""
        return apply_affine(self.pair.fixed_affine, np.argwhere(self.pair.fixed_tissue > 0))

    def error_mm(self, transform: NDArray) -> float:
        """Mean distance of an affine (4, 4) from the best one over the body, mm."""
        apart = apply_affine(np.asarray(transform), self.body) - apply_affine(self.best, self.body)
        return float(np.linalg.norm(apart, axis=1).mean())


def posed_pair(seed: int, spacing_mm: float = 5.0) -> PosedPair:
    """Draws a pair: an abdomen of another body or a beating heart in its chest, turned, moved, resized and cut.

    Args:
        seed: of everything.
        spacing_mm: about the voxel size of both images.
    """
    rng = np.random.default_rng([seed, 77])
    kind, contrast = rng.choice(KINDS), rng.choice(CONTRASTS)
    if kind == "abdomen":
        scene, extent = abdomen_scene(rng), np.array([360.0, 270.0, 240.0])
        deformation = flow(rng.uniform([-110, -70, -90], [110, 70, 90], (14, 3)), rng.normal(0, 6, (14, 3)), 38.0)
    else:
        epi = rng.uniform(33, 38)
        endo = epi - rng.uniform(8.5, 11)
        scene, extent = cardiac_scene(rng, epi, endo), np.array([300.0, 230.0, 210.0])
        deformation = beat(rng, epi, endo)
    linear, shift = random_pose(rng)
    # Between a patient who lies elsewhere in the scanner, and a scan of another part of the patient.
    centre = -rng.uniform(0.5, 1.0) * np.linalg.solve(linear, shift)
    images = []
    for _ in ("moving", "fixed"):
        steps = spacing_mm * rng.uniform(0.85, 1.15, 3)
        sides = np.round(extent * rng.uniform(0.8, 1.05, 3) / steps).astype(int)
        images.append(Imaging(tuple(sides.tolist()), tuple(steps.tolist()), 0.0, 0.0, False, 0.0))
    motion = compose(affine(np.eye(3), centre), affine(linear, shift), deformation)
    pair = make_pair(scene, motion, *images, "ct" if kind == "abdomen" else "mr", seed)
    to_ras = np.diag([-1.0, -1.0, 1.0])
    moved = pair.fixed_affine.copy()
    moved[:3, 3] += to_ras @ centre
    steps = np.asarray(images[1].spacing)
    pair = replace(
        pair,
        moving=_contrast(pair.moving, pair.moving_tissue, kind, "same", rng),
        fixed=_contrast(pair.fixed, pair.fixed_tissue, kind, contrast, rng),
        fixed_affine=moved,
        fixed_landmarks=pair.fixed_landmarks + to_ras @ centre,
        ddf=pair.ddf - (centre / steps)[:, None, None, None].astype(np.float32),
    )
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = to_ras @ linear @ to_ras, to_ras @ shift
    return PosedPair(pair, str(kind), str(contrast), pose, _nearest_affine(pair))


def random_pose(rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Rotation times size (3, 3) and shift (3,) in mm: up to 30 degrees, 0.8 to 1.25 times, and 60 mm."""
    turn = Rotation.from_rotvec(_unit(rng.normal(size=3)) * rng.uniform(0, MOST_DEG), degrees=True).as_matrix()
    return turn * np.exp(rng.uniform(*np.log(SCALES))), _unit(rng.normal(size=3)) * rng.uniform(0, MOST_MM)


def _contrast(image: NDArray, tissue: NDArray, kind: str, contrast: str, rng: np.random.Generator) -> NDArray:
    """Intensities 20 to 220 of the body in a contrast, dark air, and noise."""
    low, high = SOFT_HU if kind == "abdomen" else (0.0, BLOOD)
    x = np.clip((image - low) / (high - low), 0, 1)
    x = {"same": x, "gamma": x**0.5, "inverted": 1 - x, "folded": 2 * np.abs(x - 0.45)}[contrast]
    body = np.where(tissue > 0, 20 + 200 * x, 0.0)
    noise = rng.normal(0, 7, (2, *body.shape))
    return np.hypot(body + noise[0], noise[1]).astype(np.float32)


def _nearest_affine(pair: PhantomPair) -> NDArray:
    """(4, 4) least-squares affine of the true field over the body of the fixed image, fixed to moving, RAS mm."""
    index = np.argwhere(pair.fixed_tissue > 0)
    there = index + pair.ddf[:, pair.fixed_tissue > 0].T
    places, partners = (apply_affine(pair.fixed_affine, i) for i in (index, there))
    solved = np.linalg.lstsq(np.c_[places, np.ones(len(places))], partners, rcond=None)[0]
    return np.vstack([solved.T, [0, 0, 0, 1]])


def _unit(vector: NDArray) -> NDArray:
    return vector / np.linalg.norm(vector)
