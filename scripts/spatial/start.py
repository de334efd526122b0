# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The affine start: of many initialisations a few are refined, and the best plausible one is chosen.

The initialisations are the positions as scanned, aligned centres, and the highest peaks of the correlation over all
translations, each with coarse rotations and sizes, half turns, and mirrored axes; and the peaks for bodies of other
sizes, without which scans of very different extent can miss each other. All are compared on a coarse grid,
the best few are refined there as similarities (rotation, size, shift), and the best of those as affines on the finer
grid. The plausible one with the highest :attr:`scripts.spatial.likeness.Likeness.score`, averaged over both grids, is
chosen; the position as scanned and the aligned centres are always among them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from .likeness import MIN_OVERLAP, Likeness, Matched, Scan, likeness
from .linear import about, as_itk, refine, reflection, translation_peaks

SCALES = (0.6, 1.7)  # plausible sizes of one body relative to another, along every direction
SIDE = {2: 96, 3: 32}  # voxels along the longest side of the coarse grid, by dimensions
TURNS_DEG, SIZES = (-20.0, 0.0, 20.0), (0.87, 1.0, 1.15)
PEAK_SIZES = (0.67, 0.8, 1.25, 1.5)  # chosen on training subjects, see docs/reproduce.md
REFINED, FINALISTS = 8, 2  # initialisations that are refined on the coarse grid, and of these on the fine grid
CLOSE = 0.15  # two transforms differ if they bring some corner of the body apart by this share of its size
MIRRORED_GAIN, TURNED_GAIN = 1.15, 1.05  # factors by which mirrored and turned candidates must beat every upright one
MIN_OUTLINES = 0.5  # below it the images probably show different parts of the body


@dataclass(frozen=True, eq=False)
class Found:
    """A candidate.

    Attributes:
        matrix: (n + 1, n + 1) fixed to moving points, LPS mm, homogeneous.
        kind: "affine", "similarity", "centres" or "as scanned".
        score: higher is better.
        fit: at the fine grid.
        mirrored: array axis of the moving image along which its header seems reversed, or None.
    """

    matrix: NDArray
    kind: str
    score: float
    fit: Likeness
    mirrored: int | None = None


@dataclass(frozen=True, eq=False)
class _Look:
    """Both images at both resolutions, the moving one as in its header or mirrored along an axis."""

    fine: tuple[Matched, Matched]
    coarse: tuple[Matched, Matched]
    axis: int | None = None

    def mirrored(self, axis: int) -> _Look:
        pairs = ((fixed, moving.mirrored(axis)) for fixed, moving in (self.fine, self.coarse))
        return _Look(*pairs, axis)

    def rate(self, matrix: NDArray, kind: str, fine: bool = True) -> Found:
        determinant = float(np.linalg.det(matrix[:-1, :-1]))
        fits = [likeness(*pair, as_itk(matrix), determinant) for pair in (self.coarse, self.fine)[: 1 + fine]]
        return Found(matrix, kind, float(np.mean([f.score for f in fits])), fits[-1], self.axis)


def search(fixed: Scan, moving: Scan) -> tuple[Found, list[str]]:
    """Finds the start.

    Args:
        fixed: the fixed image.
        moving: the moving image.

    Returns:
        the chosen candidate, with its matrix for the images as their headers place them; and sentences for the user.
    """
    ndim = fixed.geometry.ndim
    scans = fixed, moving
    # Shading dominates pictures; in volumes the normalised images serve only the search for translations.
    normal = tuple(Matched.of(s, normalise=True) for s in scans)
    fine = normal if ndim == 2 else tuple(Matched.of(s, normalise=False) for s in scans)
    look = _Look(fine, tuple(m.coarse(SIDE[ndim]) for m in fine))
    normal = tuple(m.coarse(SIDE[ndim]) for m in normal)
    looks = [look, *(look.mirrored(axis) for axis in range(ndim))]
    rough = [[view.rate(m, "similarity", fine=False) for m in _initial(view, normal)] for view in looks]
    best = max(f.score for f in rough[0])
    finals = []
    for view, found in zip(looks, rough):
        if view.axis is None or max(f.score for f in found) > best:
            finals += _refined(view, found)
    still = [look.rate(np.eye(ndim + 1), "as scanned"), look.rate(_shifted(look, np.eye(ndim)), "centres")]
    chosen, notes = choose(finals, still)
    if chosen.mirrored is not None:
        chosen = replace(chosen, matrix=reflection(look.fine[1].image, chosen.mirrored) @ chosen.matrix)
    return chosen, notes


def choose(finals: Iterable[Found], still: Iterable[Found]) -> tuple[Found, list[str]]:
    """The best plausible candidate, and sentences about refused candidates and doubts.

    Args:
        finals: refined candidates.
        still: candidates that need no check, "as scanned" first.
    """
    finals, still, notes = list(finals), list(still), []
    ranked = sorted(finals, key=lambda f: f.score, reverse=True)
    refused = [(f, why) for f in ranked if (why := implausible(f))]
    plausible = [f for f in ranked if not implausible(f)]
    upright = max((f.score for f in [*plausible, *still] if not _odd(f)), default=0.0)
    believed = [f for f in plausible if f.score > upright * _odd(f)]
    chosen = max([*still, *believed], key=lambda f: f.score)
    if refused and refused[0][0].score >= chosen.score:
        notes.append(f"The best-fitting alignment was refused: {refused[0][1]}.")
    if chosen.kind not in ("affine", "similarity"):
        place = "the images stay as scanned" if chosen is still[0] else "only the centres of the bodies are aligned"
        notes.append(f"No affine alignment fits better than none, so {place}; check the result.")
    elif refused and notes:
        notes.append(f"The next best {chosen.kind} alignment is used instead.")
    if chosen.mirrored is not None:
        notes.append(
            f"The header of the moving image seems to be mirrored along array axis {chosen.mirrored}: mirrored, the "
            "images fit clearly better. Check which side is left."
        )
    elif _odd(chosen) > 1:
        notes.append("One image seems to be turned by more than 90 degrees; check the orientation in its header.")
    if chosen.fit.covered < MIN_OVERLAP or chosen.fit.outlines < MIN_OUTLINES:
        notes.append(
            f"The bodies agree poorly after the initial alignment (Dice of their outlines {chosen.fit.outlines:.2f}, "
            f"{100 * chosen.fit.covered:.0f} % of the smaller one covered); it may be wrong."
        )
    return chosen, notes


def implausible(found: Found) -> str | None:
    """Why a candidate is implausible, or None."""
    sizes = np.linalg.svd(found.matrix[:-1, :-1], compute_uv=False)
    for size in (sizes[0], sizes[-1]):
        if not SCALES[0] <= size <= SCALES[1]:
            return f"it changes sizes {size:.2f} times, and {SCALES[0]:g} to {SCALES[1]:g} is plausible"
    if found.fit.covered < MIN_OVERLAP:
        return f"only {100 * found.fit.covered:.0f} % of the smaller body overlaps the other"
    return None


def _odd(found: Found) -> float:
    """Factor by which a candidate must beat upright ones; 0 for an upright one."""
    if found.mirrored is not None:
        return MIRRORED_GAIN
    n = len(found.matrix) - 1
    # The trace of a rotation by an angle is n - 2 + 2 cos(angle).
    u, _, v = np.linalg.svd(found.matrix[:-1, :-1])
    return TURNED_GAIN if np.trace(u @ v) < n - 2 else 0.0


def _initial(look: _Look, normal: tuple[Matched, Matched]) -> list[NDArray]:
    """Every initialisation of one view of the images."""
    ndim = look.fine[0].image.GetDimension()
    straight = np.eye(ndim)
    shifts = [np.zeros(ndim), _shifted(look, straight)[:ndim, ndim]]
    shifts += translation_peaks(*look.coarse)
    if look.axis is None and ndim == 3:
        shifts += translation_peaks(*normal)
    voxel = max(look.coarse[0].image.GetSpacing())
    apart = [s for i, s in enumerate(shifts) if all(np.linalg.norm(s - t) > voxel for t in shifts[:i])]
    linear = [straight * size for size in SIZES] + (_turns(ndim) if look.axis is None else [])
    centre = np.asarray(look.fine[0].centre)
    found = [about(a, centre, shift) for a, shift in itertools.product(linear, apart)]
    if look.axis is None:
        # A body of another size has its peaks elsewhere.
        for size in PEAK_SIZES:
            shifts = translation_peaks(*look.coarse, size) + (translation_peaks(*normal, size) if ndim == 3 else [])
            found += [about(straight * size, np.zeros(ndim), shift) for shift in shifts]
    return found


def _turns(ndim: int) -> list[NDArray]:
    """Rotations (n, n) to start from: coarse ones about every axis, and half turns."""
    if ndim == 2:
        angles = [*np.deg2rad(TURNS_DEG), np.pi]
        return [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles if a]
    small = [
        Rotation.from_euler("xyz", angles, degrees=True)
        for angles in itertools.product(TURNS_DEG, repeat=3)
        if any(angles)
    ]
    half = [Rotation.from_euler(axis, 180, degrees=True) for axis in "xyz"]
    return [r.as_matrix() for r in (*small, *half)]


def _shifted(look: _Look, linear: NDArray) -> NDArray:
    fixed, moving = (np.asarray(m.centre) for m in look.fine)
    return about(linear, fixed, moving - fixed)


def _refined(look: _Look, rough: list[Found]) -> list[Found]:
    """The best different initialisations, refined as similarities, and the best of those as affines."""
    starts = _different(look, rough, REFINED)
    with ThreadPoolExecutor() as pool:
        refined = list(pool.map(lambda f: refine(*look.coarse, f.matrix, similar=True, shrink=[1]), starts))
    similar = [look.rate(m, "similarity") for m in refined if m is not None]
    finalists = _different(look, similar, FINALISTS)
    with ThreadPoolExecutor() as pool:
        ends = list(pool.map(lambda f: refine(*look.fine, f.matrix, similar=False, shrink=[2, 1]), finalists))
    return [*finalists, *(look.rate(m, "affine") for m in ends if m is not None)]


def _different(look: _Look, found: list[Found], most: int) -> list[Found]:
    """The best candidates without near duplicates."""
    fixed = look.fine[0].image
    ends = [(0.0, n - 1.0) for n in fixed.GetSize()]
    corners = np.array([fixed.TransformContinuousIndexToPhysicalPoint(c) for c in itertools.product(*ends)])
    corners = np.c_[corners, np.ones(len(corners))]
    apart = CLOSE * np.linalg.norm(np.ptp(corners, axis=0)) / 2
    kept: list[Found] = []
    for one in sorted(found, key=lambda f: f.score, reverse=True):
        if len(kept) == most or one.score <= 0:
            break
        if all(np.linalg.norm(corners @ (one.matrix - k.matrix).T, axis=1).max() > apart for k in kept):
            kept.append(one)
    return kept
