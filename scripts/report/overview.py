# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""One picture of a registration: matched regions in matching colours, before and after, deformation grid, Jacobian."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from scripts.metrics.jacobian import jacobian_determinant
from scripts.roi.registration import Registration
from scripts.roi.slicing import SlicePlan
from scripts.spatial.warp import warp

SHOWN_PAIRS = 14


def overview(path: str | Path, image: Tensor, result: Registration, spacing: tuple[float, ...], title: str) -> None:
    """Draws the picture.

    Args:
        path: a PNG file.
        image: (2C, *shape) the working pair in [0, 1], moving channels first.
        result: the registration on the same grid.
        spacing: mm of the working grid, so that pixels have their true aspect.
        title: line above the panels.
    """
    plan = result.fixed.plan
    position = best_slice(result)
    moving, fixed = (show(half, plan, position) for half in image.chunk(2))
    figure = Figure(figsize=(15, 10.4), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    in_plane = list(spacing) if plan.axis is None else [s for a, s in enumerate(spacing) if a != plan.axis]
    rows_mm, columns_mm = (in_plane[1], in_plane[0]) if plan.transposed else in_plane
    aspect = rows_mm / columns_mm
    kept = [
        (k, *(show(m[k][None].float() / 255, plan, position) > 0.5 for m in (result.moving_masks, result.fixed_masks)))
        for k in range(len(result.matches))
    ]
    kept = [(k, m, f) for k, m, f in kept if m.any() or f.any()][:SHOWN_PAIRS]
    colours = matplotlib.colormaps["tab20"](np.linspace(0, 1, max(len(kept), 1)))
    for axis, picture, side, name in ((axes[0, 0], moving, 1, "moving"), (axes[0, 1], fixed, 2, "fixed")):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=aspect)
        for row, entry in enumerate(kept):
            outline(axis, entry[side], colours[row], f"{entry[0] + 1}: {float(result.matches.score[entry[0]]):.2f}")
        where = "" if plan.axis is None else f", slice {position}"
        axis.set_title(f"{name}{where}: {len(result.matches)} matched regions" if side == 2 else f"{name}{where}")
    checkers(axes[0, 2], moving, fixed, aspect, "before")
    if result.ddf is None:
        for axis in axes[1]:
            axis.text(0.5, 0.5, "no dense field", ha="center", va="center", transform=axis.transAxes)
    else:
        moved = show(warp(image[: len(image) // 2][None].float(), result.ddf.cpu())[0], plan, position)
        checkers(axes[1, 0], moved, fixed, aspect, "after")
        grid_lines(axes[1, 1], moved, result.ddf.cpu(), plan, position, aspect)
        determinant = show(jacobian_determinant(result.ddf.cpu()), plan, position)
        drawn = axes[1, 2].imshow(determinant, cmap="RdBu", vmin=0, vmax=2, aspect=aspect)
        axes[1, 2].contour(determinant <= 0, levels=[0.5], colors="black") if (determinant <= 0).any() else None
        axes[1, 2].set_title(
            f"Jacobian determinant, {float((jacobian_determinant(result.ddf) <= 0).float().mean()):.3%} folds"
        )
        figure.colorbar(drawn, ax=axes[1, 2], shrink=0.8)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle(title)
    figure.savefig(path)


def best_slice(result: Registration) -> int:
    """The slice that most matched regions cross; the middle one if none does."""
    plan = result.fixed.plan
    if plan.axis is None:
        return 0
    if not len(result.matches):
        return plan.count // 2
    on = (result.fixed_masks > 127).movedim(1 + plan.axis, 1).flatten(2).any(dim=2).sum(dim=0)
    middle = (torch.arange(plan.count) - plan.count / 2).abs()
    return int((on * 1000 - middle).argmax())


def show(volume: Tensor, plan: SlicePlan, position: int) -> NDArray:
    """One displayed slice (H, W) or (H, W, 3) of channels (C, *shape)."""
    plane = volume if plan.axis is None else volume.movedim(1 + plan.axis, 0)[position]
    plane = plane.transpose(1, 2) if plan.transposed else plane
    plane = plane.flip([1 + i for i, f in enumerate(plan.flips) if f])
    return (plane[0] if len(plane) == 1 else plane.movedim(0, -1)).cpu().numpy()


def outline(axis, mask: NDArray, colour, text: str) -> None:
    """Fills and outlines a mask and writes its score in the middle."""
    if not mask.any():
        return
    axis.imshow(
        np.ma.masked_where(~mask, mask),
        cmap=matplotlib.colors.ListedColormap([colour]),
        alpha=0.35,
        aspect=axis.get_aspect(),
    )
    axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.3)
    rows, columns = np.nonzero(mask)
    axis.text(
        columns.mean(),
        rows.mean(),
        text,
        color="white",
        fontsize=7,
        ha="center",
        va="center",
        bbox={"facecolor": colour, "alpha": 0.7, "pad": 1, "linewidth": 0},
    )


def checkers(axis, a: NDArray, b: NDArray, aspect: float, title: str, fields: int = 8) -> None:
    """Checkerboard of two images: edges run through where they agree."""
    rows, columns = np.ogrid[: a.shape[0], : a.shape[1]]
    first = (rows * fields // a.shape[0] + columns * fields // a.shape[1]) % 2 == 0
    axis.imshow(np.where(first[..., None] if a.ndim == 3 else first, a, b), cmap="gray", vmin=0, vmax=1, aspect=aspect)
    axis.set_title(f"{title}: checkerboard of moving and fixed")


def grid_lines(axis, moved: NDArray, ddf: Tensor, plan: SlicePlan, position: int, aspect: float) -> None:
    """Deformed grid over the moved image: where each line of the fixed grid lies in the moving image."""
    shift = [show(ddf[:, i], plan, position) for i in range(ddf.shape[1])]
    if plan.axis is not None:
        shift.pop(plan.axis)
    rows, columns = (shift[1], shift[0]) if plan.transposed else (shift[0], shift[1])
    rows, columns = (-rows if plan.flips[0] else rows), (-columns if plan.flips[1] else columns)
    height, width = rows.shape
    axis.imshow(moved, cmap="gray", vmin=0, vmax=1, aspect=aspect, alpha=0.6)
    y, x = np.mgrid[:height, :width].astype(float)
    step = max(2, max(height, width) // 40)
    for r in range(0, height, step):
        axis.plot((x + columns)[r], (y + rows)[r], color="tab:orange", linewidth=0.6)
    for c in range(0, width, step):
        axis.plot((x + columns)[:, c], (y + rows)[:, c], color="tab:orange", linewidth=0.6)
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    axis.set_title("deformation grid on the moved image")
