# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Warping by a displacement field in voxels, composition, integration, and change of grid.

Convention of the whole project: a DDF is (B, 2 or 3, H, W[, D]) on the fixed grid, in voxels, channel i along array
axis i, and pulls: ``moved(x) = moving(x + ddf(x))``. ``monai.networks.blocks.Warp`` reads it the same way and is the
oracle of the tests. It rebuilds its grid at every call, 22 % of a warp on a CPU, so the grid is cached here.

``torch.jit.script`` compiles everything here; a scripted network makes its grids afresh and leaves out the checks.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

MODES = ("bilinear", "nearest", "bicubic")
PADDINGS = ("border", "zeros", "reflection")
SHARED_POINTS = 10_000  # fewer are read faster by one thread
KEPT_VOXELS = 10_000_000  # the coordinates of larger grids, hundreds of MB, are not kept


def identity_grid(shape: list[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Voxel coordinates of a grid: (1, n, *shape), channel i holds the index along axis i. Do not write into it."""
    if not torch.jit.is_scripting():  # nested, because a script would compile what follows "and"
        # An export traces tensors without values, which must not get into the cache.
        exported = torch.compiler.is_compiling() or torch.compiler.is_exporting()
        if not exported and math.prod(shape) <= KEPT_VOXELS:
            return _kept_grid(tuple(shape), device, dtype)
    return _make_grid(shape, device, dtype)


def _make_grid(shape: list[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    axes = [torch.arange(s, device=device, dtype=dtype) for s in shape]
    return torch.stack(torch.meshgrid(axes, indexing="ij"))[None]


_kept_grid = lru_cache(maxsize=16)(_make_grid)


def check_ddf(ddf: Tensor) -> None:
    """Raises ValueError unless ``ddf`` is (B, 2, H, W) or (B, 3, H, W, D)."""
    if ddf.ndim not in (4, 5) or ddf.shape[1] != ddf.ndim - 2:
        raise ValueError(f"A DDF must be (B, 2, H, W) or (B, 3, H, W, D), got {tuple(ddf.shape)}.")


def sample(image: Tensor, coordinates: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """Reads an image at voxel coordinates.

    Args:
        image: (B, C, H, W[, D]).
        coordinates: (B, n, ...) voxels of ``image``, channel i along its axis i; any grid of points.
        mode: "bilinear" (trilinear in 3-D), "nearest" or, in 2-D, "bicubic".
        padding: "border", "zeros" or "reflection".

    Returns:
        (B, C, ...) on the grid of the coordinates.
    """
    n = image.ndim - 2
    if not torch.jit.is_scripting():
        _check_sample(image, coordinates, mode, padding)
    # With aligned corners an axis of one voxel is always read at that voxel.
    sizes = torch.tensor(image.shape[2:], device=image.device, dtype=coordinates.dtype).clamp_min(2)
    scale = (2 / (sizes - 1)).view([1, n] + [1] * n)
    normalised = (coordinates * scale - 1).movedim(1, -1).flip([-1])
    normalised = normalised.to(image.dtype)
    if not torch.jit.is_scripting():
        return _sample_by_threads(image, normalised, mode, padding)
    return F.grid_sample(image, normalised, mode=mode, padding_mode=padding, align_corners=True)


def _sample_by_threads(image: Tensor, grid: Tensor, mode: str, padding: str) -> Tensor:
    """``grid_sample`` with aligned corners; the points of a single volume are shared between the threads."""
    points, n, threads = grid.shape[1:-1], grid.shape[-1], torch.get_num_threads()
    count = math.prod(points)
    exported = torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing()
    # In 2-D one thread is about as fast.
    alone = image.device.type != "cpu" or len(image) > 1 or n == 2 or count < SHARED_POINTS or threads == 1
    if exported or alone:
        return F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=True)
    share = -(-count // threads)
    places = F.pad(grid.reshape(-1, n), (0, 0, 0, threads * share - count))
    values = sample_shares(image, places.view(threads, share, n), mode, padding)
    return values[:, :count].reshape(1, -1, *points)


def sample_shares(image: Tensor, places: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """Reads one image at normalised coordinates, each share of them in a thread of its own.

    PyTorch handles each image of a batch with one thread, so every share gets the image.

    Args:
        image: (1, C, H, W[, D]).
        places: (shares, points, n), with aligned corners.
        mode: see :func:`sample`.
        padding: see :func:`sample`.

    Returns:
        (C, shares * points).
    """
    shares, n = len(places), places.shape[-1]
    grid = places.view(shares, -1, *[1] * (n - 1), n)
    images = image.expand(shares, *image.shape[1:])
    values = F.grid_sample(images, grid, mode=mode, padding_mode=padding, align_corners=True)
    return values.flatten(2).transpose(0, 1).flatten(1)


def _check_sample(image: Tensor, coordinates: Tensor, mode: str, padding: str) -> None:
    if mode not in MODES or padding not in PADDINGS:
        raise ValueError(f"mode must be one of {MODES} and padding one of {PADDINGS}, got {mode!r} and {padding!r}.")
    n = image.ndim - 2
    if coordinates.ndim != image.ndim or coordinates.shape[1] != n:
        raise ValueError(
            f"An image of shape {tuple(image.shape)} needs coordinates (B, {n}, ...) with {n} grid axes, "
            f"got {tuple(coordinates.shape)}."
        )


def warp(image: Tensor, ddf: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """Pulls an image (B, C, H, W[, D]) back, ``image(x + ddf(x))``, by a field (B, n, H, W[, D]) in voxels.

    ``mode`` and ``padding`` are those of :func:`sample`.
    """
    if not torch.jit.is_scripting():
        check_ddf(ddf)
        if image.shape[2:] != ddf.shape[2:]:
            raise ValueError(f"Image grid {tuple(image.shape[2:])} and DDF grid {tuple(ddf.shape[2:])} differ.")
    return sample(image, identity_grid(ddf.shape[2:], ddf.device, ddf.dtype) + ddf, mode, padding)


def compose(first: Tensor, second: Tensor, padding: str = "border") -> Tensor:
    """The field that warps like ``first`` and then ``second``: ``x -> second(x) + first(x + second(x))``.

    With pull fields (B, n, ...) in voxels, ``warp(warp(image, first), second)`` equals
    ``warp(image, compose(first, second))`` up to interpolation.
    ``padding`` applies to ``first`` outside its grid.
    """
    return second + warp(first, second, padding=padding)


def integrate(velocity: Tensor, steps: int = 6, padding: str = "border") -> Tensor:
    """Exponential of a stationary velocity field by scaling and squaring: a diffeomorphism.

    Args:
        velocity: (B, n, ...) voxels per unit time.
        steps: squarings; the first step is 2 ** -steps of the velocity.
        padding: of the field outside its grid; see :func:`sample`.

    Returns:
        (B, n, ...) DDF in voxels.

    Reference:
        Arsigny et al., MICCAI 2006.
    """
    if not torch.jit.is_scripting():
        check_ddf(velocity)
    ddf = velocity / 2**steps
    for _ in range(steps):
        ddf = compose(ddf, ddf, padding)
    return ddf


def resize_ddf(ddf: Tensor, shape: list[int]) -> Tensor:
    """Resizes a field (B, n, ...) to another number of voxels over the same box: resampled **and** rescaled.

    Both grids span the same edges, as for resized images: voxel i of n lies at (i + 0.5) / n of the extent.
    """
    if not torch.jit.is_scripting():
        check_ddf(ddf)
    old, new = [int(s) for s in ddf.shape[2:]], [int(s) for s in shape]
    if old == new:
        return ddf
    ratio = torch.tensor([n / o for n, o in zip(new, old)], device=ddf.device, dtype=ddf.dtype)
    mode = "bilinear" if len(new) == 2 else "trilinear"
    resized = F.interpolate(ddf, new, mode=mode, align_corners=False)
    return resized.mul_(ratio.view([1, -1] + [1] * len(new)))  # in place: a field of a whole CT is 1 GB
