# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""ROI-to-dense against the plain loop of the reference: ``python -m scripts.benchmarks.speed.dense --data_dir DATA``.

The plain loop is equation 2 as the paper's code runs it: 10,000 Adam steps on the voxels of the full grid, no pyramid.
"""

from __future__ import annotations

import sys
import tempfile
import time

import fire
import torch
from torch import Tensor

from ...losses.overlap import soft_dice_loss
from ...losses.smoothness import diffusion
from ...metrics.jacobian import regularity
from ...roi.dense import DenseSettings, roi_to_dense
from ...spatial.warp import warp
from ..common import Registrar, hardware
from ..hearts.acdc import acdc_items

REGIONS = {"discrete": False, "image_weight": 0.0}  # equation 2 as printed


def roi_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error plus Dice loss (K,) of masks (K, *shape) in [0, 1], L_roi of equation 2 of Huang et al. 2024.

    The denominator sums squares (Milletari et al., 3DV 2016). For binary masks this is the Dice coefficient; for
    fractional masks it is largest where the masks agree, so an image registered with itself does not move.
    """
    a, b = a.flatten(1), b.flatten(1)
    overlap = (2 * (a * b).sum(dim=1) + 1e-5) / (a.square().sum(dim=1) + b.square().sum(dim=1) + 1e-5)
    return (a - b).square().mean(dim=1) + 1 - overlap


def plain_loop(
    moving: Tensor, fixed: Tensor, spacing, smoothness: float, steps: int, learning_rate: float = 0.01
) -> Tensor:
    """Equation 2 minimised step by step on the full grid; the last state, as the reference returns it."""
    ddf = torch.zeros(1, moving.ndim - 1, *moving.shape[1:], requires_grad=True)
    optimiser = torch.optim.Adam([ddf], lr=learning_rate)
    moving, fixed = moving.float()[None] / 255, fixed.float() / 255
    for _ in range(steps):
        optimiser.zero_grad()
        warped = warp(moving, ddf, padding="zeros")[0]
        loss = roi_loss(warped, fixed).sum() + smoothness * diffusion(ddf, spacing)
        loss.backward()
        optimiser.step()
    return ddf.detach()


def roi_dice(moving: Tensor, fixed: Tensor, ddf: Tensor | None) -> float:
    """Mean soft Dice of the pairs, warped by a field."""
    moved = moving.float()[None] / 255
    moved = moved if ddf is None else warp(moved, ddf, padding="zeros")
    return 1 - float(soft_dice_loss(moved[0], fixed.float() / 255).mean())


def main(data_dir: str, patients: int = 2, steps: int = 10_000, max_pairs: int = 10, **options) -> None:
    """Prints time, mean ROI Dice and folds of both, on the ROI pairs that the shipped config finds in ACDC.

    Args:
        data_dir: folder with ``acdc/`` and ``splits/acdc.json``.
        patients: number of validation patients.
        steps: of the plain loop.
        max_pairs: largest number of ROI pairs per patient.
        options: any key of configs/samreg.json.
    """
    write = sys.stdout.write
    write(f"{hardware()}\n")
    with tempfile.TemporaryDirectory() as folder:
        items = acdc_items(data_dir, "validation", folder, 128)[:patients]
        registrar = Registrar({"window": "mr", "dense": False, "max_pairs": max_pairs, **REGIONS, **options})
        settings: DenseSettings = registrar.inferer.settings
        for name, item in items:
            case = registrar(name, item)
            moving, fixed = case.result.moving_masks.whole(), case.result.fixed_masks.whole()
            spacing = case.pair.working.spacing
            began = time.perf_counter()
            ours = roi_to_dense(moving, fixed, spacing, settings)
            middle = time.perf_counter()
            plain = plain_loop(moving, fixed, spacing, settings.smoothness, steps)
            seconds = middle - began, time.perf_counter() - middle
            write(f"{name}, K = {len(moving)}, ROI Dice before {roi_dice(moving, fixed, None):.4f}\n")
            for label, ddf, took in (("ours", ours.ddf, seconds[0]), (f"{steps} plain steps", plain, seconds[1])):
                folds = regularity(ddf)["folds_percent"]
                write(f"  {label}: {took:.1f} s, ROI Dice {roi_dice(moving, fixed, ddf):.4f}, folds {folds:.3f} %\n")
            write(f"  {seconds[1] / seconds[0]:.0f} times faster\n")


if __name__ == "__main__":
    fire.Fire(main)
