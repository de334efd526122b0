# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Pictures of one slice of a registration: matched regions, checkerboards, deformation grid, Jacobian."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..correspondence.result import Registration
from ..correspondence.slicing import SlicePlan
from ..metrics.jacobian import jacobian_determinant
from ..spatial.warp import warp

SHEET = (("moving", "fixed", "before"), ("after", "grid", "jacobian"))  # of all pictures
TILE, HEAD = 400, 32  # pixels of a picture on the sheet, and of its title
SHOWN_PAIRS = 14
FOLD_COLOUR = "#ff00d0"  # differs from the greys of the images and the red and blue of the Jacobian

Draw = Callable[[Axes], None]


@dataclass(frozen=True)
class View:
    """One slice of the working grid, turned for display.

    Attributes:
        plan: which axis is cut, and how a slice is turned.
        position: number of the slice.
        spacing: mm of the working grid, so that pixels have their true aspect.
    """

    plan: SlicePlan
    position: int
    spacing: tuple[float, ...]

    def __call__(self, volume: Tensor) -> NDArray:
        """The slice (H, W) or (H, W, 3) of channels (C, *shape)."""
        plane = volume if self.plan.axis is None else volume.movedim(1 + self.plan.axis, 0)[self.position]
        plane = plane.transpose(1, 2) if self.plan.transposed else plane
        plane = plane.flip([1 + i for i, f in enumerate(self.plan.flips) if f])
        return (plane[0] if len(plane) == 1 else plane.movedim(0, -1)).cpu().numpy()

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Height and width of a pixel."""
        in_plane = [s for a, s in enumerate(self.spacing) if a != self.plan.axis]
        return (in_plane[1], in_plane[0]) if self.plan.transposed else (in_plane[0], in_plane[1])

    @property
    def aspect(self) -> float:
        """Height over width of a pixel."""
        return self.pixel_mm[0] / self.pixel_mm[1]

    @property
    def name(self) -> str:
        """Text for titles: the number of the slice, or nothing for a 2-D image."""
        return "" if self.plan.axis is None else f", slice {self.position}"


def best_view(result: Registration, spacing: tuple[float, ...]) -> View:
    """The slice that most matched regions cross, or the middle one."""
    plan = result.fixed.plan
    if plan.axis is None:
        return View(plan, 0, spacing)
    if not len(result.matches):
        return View(plan, plan.count // 2, spacing)
    others = [a for a in range(3) if a != plan.axis]
    # Mask by mask, because together they can be as large as all images.
    on = sum((mask.amax(dim=others) > 127).long() for mask in result.fixed_masks).cpu()
    middle = (torch.arange(plan.count) - plan.count / 2).abs()
    return View(plan, int((on * 1000 - middle).argmax()), spacing)


def panels(image: Tensor, result: Registration, spacing: tuple[float, ...]) -> dict[str, Draw]:
    """Functions that draw the pictures.

    Args:
        image: (2C, *shape) the working pair in [0, 1], moving channels first.
        result: the registration on the same grid.
        spacing: mm of that grid.

    Returns:
        "moving", "fixed" (with the matched regions), "before" and, with a field, "after" (checkerboards), "grid" and
        "jacobian".
    """
    view = best_view(result, spacing)
    moving, fixed = (view(half) for half in image.chunk(2))
    kept = []
    for k in range(len(result.matches)):
        masks = [view(m[k][None]) > 127 for m in (result.moving_masks, result.fixed_masks)]
        if masks[0].any() or masks[1].any():
            kept.append((k, *masks))
    kept = kept[:SHOWN_PAIRS]
    colours = matplotlib.colormaps["tab20"](np.linspace(0, 1, max(len(kept), 1)))

    def regions(axis: Axes, picture: NDArray, side: int, title: str) -> None:
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=view.aspect)
        for entry, colour in zip(kept, colours):
            outline(axis, entry[side], colour, f"{entry[0] + 1}: {float(result.matches.score[entry[0]]):.2f}")
        axis.set_title(title)

    drawn: dict[str, Draw] = {
        "moving": lambda axis: regions(axis, moving, 1, f"moving{view.name}"),
        "fixed": lambda axis: regions(axis, fixed, 2, f"fixed{view.name}: {len(result.matches)} matched regions"),
        "before": lambda axis: checkers(axis, moving, fixed, view.aspect, "before"),
    }
    if result.ddf is None:
        return drawn
    ddf = result.ddf.cpu()
    moved = view(warp(image[: len(image) // 2][None].float(), ddf)[0])
    drawn["after"] = lambda axis: checkers(axis, moved, fixed, view.aspect, "after")
    drawn["grid"] = lambda axis: grid_lines(axis, moved, ddf, view)
    drawn["jacobian"] = lambda axis: jacobian_map(axis, ddf, view)
    return drawn


def png(draw: Draw, axes: bool = False) -> bytes:
    """One picture alone, 640 x 640 pixels, with or without its axes."""
    figure = Figure(figsize=(5.12, 5.12), dpi=125, layout="constrained")
    axis = figure.subplots()
    draw(axis)
    axis.title.set_fontsize(9)
    if not axes:
        axis.set_axis_off()
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def overview(path: str | Path, pictures: Mapping[str, bytes], title: str) -> None:
    """Puts all pictures on one sheet, a PNG file, under a title; without a field, their places say so."""
    width, height = TILE * len(SHEET[0]), TILE * len(SHEET) + HEAD
    figure = Figure(figsize=(width / 80, height / 80), dpi=80)
    for row, names in enumerate(SHEET):
        for column, name in enumerate(names):
            left, bottom = column * TILE, (len(SHEET) - 1 - row) * TILE
            if name in pictures:
                picture = Image.open(io.BytesIO(pictures[name])).convert("RGB").resize((TILE, TILE))
                figure.figimage(np.asarray(picture), left, bottom)
            else:
                place = (left + TILE / 2) / width, (bottom + TILE / 2) / height
                figure.text(*place, "no dense field", ha="center", va="center")
    figure.suptitle(title, y=1 - HEAD / 2 / height, va="center")
    figure.savefig(path)


def outline(axis: Axes, mask: NDArray, colour: NDArray, text: str) -> None:
    """Fills and outlines a mask and writes a text in its middle."""
    if not mask.any():
        return
    axis.contourf(mask, levels=[0.5, 1], colors=[colour], alpha=0.35)
    axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.3)
    rows, columns = np.nonzero(mask)
    box = {"facecolor": colour, "alpha": 0.7, "pad": 1, "linewidth": 0}
    axis.text(columns.mean(), rows.mean(), text, color="white", fontsize=7, ha="center", va="center", bbox=box)


def checkers(axis: Axes, a: NDArray, b: NDArray, aspect: float, title: str, fields: int = 8) -> None:
    """Checkerboard of two images: edges continue across fields where the images agree."""
    rows, columns = np.ogrid[: a.shape[0], : a.shape[1]]
    first = (rows * fields // a.shape[0] + columns * fields // a.shape[1]) % 2 == 0
    axis.imshow(np.where(first[..., None] if a.ndim == 3 else first, a, b), cmap="gray", vmin=0, vmax=1, aspect=aspect)
    axis.set_title(f"{title}: checkerboard of moving and fixed")


def grid_lines(axis: Axes, moved: NDArray, ddf: Tensor, view: View) -> None:
    """Deformed grid over the moved image: where each line of the fixed grid lies in the moving image."""
    shift = [view(ddf[:, i]) for i in range(ddf.shape[1])]
    if view.plan.axis is not None:
        shift.pop(view.plan.axis)
    rows, columns = (shift[1], shift[0]) if view.plan.transposed else (shift[0], shift[1])
    rows, columns = (-rows if view.plan.flips[0] else rows), (-columns if view.plan.flips[1] else columns)
    height, width = rows.shape
    axis.imshow(moved, cmap="gray", vmin=0, vmax=1, aspect=view.aspect, alpha=0.6)
    y, x = np.mgrid[:height, :width].astype(float)
    step = max(2, max(height, width) // 40)
    for r in range(0, height, step):
        axis.plot((x + columns)[r], (y + rows)[r], color="tab:orange", linewidth=0.6)
    for c in range(0, width, step):
        axis.plot((x + columns)[:, c], (y + rows)[:, c], color="tab:orange", linewidth=0.6)
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    axis.set_title(f"deformation grid on the moved image{view.name}")


def jacobian_map(axis: Axes, ddf: Tensor, view: View) -> None:
    """Jacobian determinant, red below 1 and blue above, folds in magenta.

    If the field folds anywhere, the slice with the most folds is shown.
    """
    determinant = jacobian_determinant(ddf)
    folds = determinant <= 0
    if folds.any() and view.plan.axis is not None:
        count = folds[0].movedim(view.plan.axis, 0).flatten(1).sum(dim=1)
        view = replace(view, position=int(count.argmax()))
    drawn = axis.imshow(view(determinant), cmap="RdBu", vmin=0, vmax=2, aspect=view.aspect)
    if folds.any():
        here = view(folds)
        only = matplotlib.colors.ListedColormap([FOLD_COLOUR])
        axis.imshow(np.ma.masked_where(~here, here), cmap=only, aspect=view.aspect, interpolation="nearest")
        axis.legend(handles=[Patch(color=FOLD_COLOUR, label=f"{int(here.sum())} folds here")], loc="lower right")
    share = float(folds.float().mean())
    axis.set_title(f"Jacobian determinant{view.name}; {share:.3%} of all voxels fold")
    axis.figure.colorbar(drawn, ax=axis, shrink=0.8)
