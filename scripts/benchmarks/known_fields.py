# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Known fields: other contrasts, large and sliding motion. ``python -m scripts.benchmarks.known_fields``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import fire
import numpy as np
import torch
from torch import Tensor

from ..data.phantoms.abdomen import abdomen_pair
from ..data.phantoms.cardiac import cardiac_pair
from ..metrics.jacobian import regularity
from ..roi.dense import DenseSettings, roi_to_dense
from ..roi.level import gaussian_smooth
from ..spatial.warp import identity_grid, warp
from .common import Registrar, hardware

CONTRASTS: dict[str, Callable[[Tensor], Tensor]] = {
    "same": lambda x: x,
    "inverted": lambda x: 1 - x,
    "non-monotone": lambda x: 0.5 + 0.5 * torch.cos(1.7 * torch.pi * x),  # falls, then rises
}


def field_of(moving: Tensor, fixed: Tensor, spacing: tuple[float, ...], settings: DenseSettings) -> Tensor:
    """The field (1, n, *shape) of two images (1, *shape) without any regions."""
    none = torch.zeros(0, *moving.shape[1:], dtype=torch.uint8)
    return roi_to_dense(none, none, spacing, settings, images=(moving, fixed)).ddf


def error_of(ddf: Tensor, truth: Tensor, where: Tensor) -> float:
    """Mean length of the error in voxels over ``where`` (*shape)."""
    return float((ddf - truth).norm(dim=1)[0][where].mean())


def organs(seed: int) -> list[tuple[str, Tensor, Tensor, Tensor, Tensor, tuple[float, ...]]]:
    """Name, moving, fixed, true field, labelled voxels, spacing of a heart and an abdomen."""
    found = []
    for name, pair in (("heart", cardiac_pair(seed, noise=8.0)), ("abdomen", abdomen_pair(seed))):
        images = [torch.from_numpy(x)[None] for x in (pair.moving, pair.fixed)]
        low, high = (float(np.percentile(pair.moving, q)) for q in (1, 99))
        images = [((x - low) / (high - low)).clamp(0, 1) for x in images]
        spacing = tuple(np.linalg.norm(pair.fixed_affine[:3, :3], axis=0).tolist())
        found.append((name, *images, torch.from_numpy(pair.ddf)[None], torch.from_numpy(pair.fixed_label > 0), spacing))
    return found


def motions(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """True fields (1, 3, *shape) of up to 20 voxels: one smooth, one sliding along a plane."""
    x, y, z = (a / s for a, s in zip(identity_grid(shape, torch.device("cpu"), torch.float32)[0], shape))
    fade = torch.stack([torch.sin(torch.pi * a) for a in (x, y, z)]).prod(dim=0)
    still = torch.zeros_like(x)
    smooth = torch.stack([20 * fade, 8 * fade * torch.cos(3 * x), 6 * fade * torch.cos(3 * y)])[None]
    # The lung moves past the ribs: 20 voxels on one side of a plane and nothing on the other, one voxel apart.
    slide = torch.stack([torch.where(y < 0.5, 20 * torch.sin(torch.pi * x), still), still, still])[None]
    return {"large and smooth": smooth, "sliding": slide}


def main(seeds: int = 2, **options) -> None:
    """Prints the error of the field for every contrast and motion.

    Args:
        seeds: phantoms of each kind.
        options: of configs/samreg.json that concern the dense field.
    """
    settings = Registrar({"device": "cpu", **options}).inferer.settings
    write = sys.stdout.write
    write(
        f"{hardware()}\n\n| phantom | contrast of the fixed image | error before (voxels) | after | folds (%) | s |\n"
    )
    write("|---|---|---|---|---|---|\n")
    for seed in range(seeds):
        for name, moving, fixed, truth, where, spacing in organs(seed):
            for contrast, change in CONTRASTS.items():
                began = time.perf_counter()
                ddf = field_of(moving, change(fixed), spacing, settings)
                seconds = time.perf_counter() - began
                before, after = (error_of(d, truth, where) for d in (torch.zeros_like(truth), ddf))
                folds = regularity(ddf)["folds_percent"]
                write(f"| {name} {seed} | {contrast} | {before:.2f} | {after:.2f} | {folds:.3f} | {seconds:.0f} |\n")
                sys.stdout.flush()
    write("\n| motion | voxels off before | after | folds (%) | s |\n|---|---|---|---|---|\n")
    shape = (112, 96, 80)
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        texture = gaussian_smooth(torch.randn(1, 1, *shape, generator=generator), [2.0] * 3)[0]
        texture = (texture - texture.min()) / (texture.max() - texture.min())
        for name, truth in motions(shape).items():
            began = time.perf_counter()
            ddf = field_of(texture, warp(texture[None], truth)[0], (1.0, 1.0, 1.0), settings)
            seconds = time.perf_counter() - began
            inside = torch.zeros(shape, dtype=torch.bool)
            inside[8:-8, 8:-8, 8:-8] = True
            places = identity_grid(shape, truth.device, truth.dtype) + truth
            limits = torch.tensor(shape).view(1, 3, 1, 1, 1) - 1
            inside &= ((places >= 0) & (places <= limits)).all(dim=1)[0]  # what has left the image cannot be matched
            before, after = (error_of(d, truth, inside) for d in (torch.zeros_like(truth), ddf))
            folds = regularity(ddf)["folds_percent"]
            write(f"| {name} {seed} | {before:.2f} | {after:.2f} | {folds:.3f} | {seconds:.0f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    fire.Fire(main)
