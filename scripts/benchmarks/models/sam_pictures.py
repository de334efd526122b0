# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Pictures of the output of a Segment Anything model.

``python -m scripts.benchmarks.models.sam_pictures --output_dir docs/figures``. Without real
data it draws phantoms, which may be shared; with it also validation slices, which fall under the terms of their owners
(docs/data_license.txt).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import fire
import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ...data.splits import evenly
from ...report.panels import outline
from ...sam.build import MODELS
from ...sam.prompts import EncodedSlices, Prompt
from ...training.sam.shapes import shape_image
from ...workflow.guard import check_output_dir
from ...workflow.outcome import plain_errors
from .sam_measures import iou
from .sam_models import Model, load_models
from .sam_slices import LabelledSlice, abdomen_slices, heart_slices, phantom_slices
from .sam_unseen import photographs, unseen

SHAPES_SEED = 900_000


@dataclass(frozen=True, eq=False)
class Shown:
    """One row of a figure.

    Attributes:
        title: what it is.
        kind: whose settings it gets: "heart", "abdomen" or "other".
        picture: (3, H, W) in 0..255.
        structures: masks (H, W) bool to ask for, may be empty.
    """

    title: str
    kind: str
    picture: Tensor
    structures: Sequence[Tensor] = ()


def best_of_three(model: Model, one: Shown, target: Tensor, rng: np.random.Generator) -> tuple[Tensor, float, list]:
    """Best mask (H, W) of a random point inside a structure, its IoU, and the point as row and column."""
    inside = target.nonzero()
    row, column = inside[int(rng.integers(len(inside)))].tolist()
    prompt = Prompt(torch.tensor([[column + 0.5, row + 0.5]]), torch.ones(1))
    masks = EncodedSlices(model.sam, one.picture[None]).masks(0, prompt).masks().cpu()
    scores = iou(masks, target[None])[:, 0]
    return masks[int(scores.argmax())], float(scores.max()), [row, column]


def draw(path: Path, model: Model, rows: Sequence[Shown]) -> None:
    """One figure: a row per picture, with regions of everything mode and the answers to one point per structure."""
    figure = Figure(figsize=(8.4, 2.8 * len(rows)), dpi=60, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), 3, squeeze=False)
    rng = np.random.default_rng(0)
    colours = matplotlib.colormaps["tab20"].colors
    for axes, one in zip(panels, rows):
        for axis in axes:
            axis.imshow(one.picture.permute(1, 2, 0).round().byte().numpy())
            axis.set_axis_off()
        axes[0].set_title(one.title, fontsize=9)
        found = model.keep[one.kind](model.everything[one.kind](model.sam, one.picture[None])[0])
        for number, mask in enumerate(found.masks().cpu().numpy() if len(found) else ()):
            outline(axes[1], mask, colours[number % len(colours)], f"{float(found.predicted_iou[number]):.2f}")
        axes[1].set_title(f"{len(found)} regions, predicted IoU", fontsize=9)
        if not one.structures:
            axes[2].remove()
            continue
        scores = []
        for number, target in enumerate(one.structures):
            mask, score, (row, column) = best_of_three(model, one, target, rng)
            colour = colours[2 * number % len(colours)]
            axes[2].contour(target, levels=[0.5], colors="white", linewidths=0.8, linestyles="dashed")
            if mask.any():
                axes[2].contour(mask, levels=[0.5], colors=[colour], linewidths=1.4)
            axes[2].plot(column, row, "+", color=colour, markersize=7)
            scores.append(score)
        axes[2].set_title(f"a point each (+), IoU {np.mean(scores):.2f}; truth dashed", fontsize=9)
    with BytesIO() as drawn:
        figure.savefig(drawn, format="png")
        # 96 colours look the same and take a third of the bytes.
        Image.open(drawn).convert("RGB").quantize(96).save(path, optimize=True)


def of_slice(title: str, one: LabelledSlice) -> Shown:
    """A row with the structures of a labelled slice."""
    return Shown(title, one.kind, one.picture, list(one.structures(0.005).values()))


def phantom_rows() -> list[Shown]:
    """Phantoms of the two kinds in the training, random shapes, and textures that the training lacks."""
    heart, abdomen = (images[len(images) // 2] for images in list(phantom_slices(2))[::2])
    image, layers, _ = shape_image(np.random.default_rng(SHAPES_SEED), 256)
    shapes = [torch.from_numpy(layers[0] == v) for v in np.unique(layers[0]) if v]
    shapes = [mask for mask in shapes if mask.float().mean() >= 0.005]
    rows = [of_slice("heart phantom (as in training)", heart), of_slice("abdomen phantom (as in training)", abdomen)]
    rows.append(Shown("random shapes (as in training)", "other", torch.from_numpy(image).expand(3, -1, -1), shapes))
    for kind, pictures in unseen(None, 1).items():
        rows.append(Shown(f"{kind} (never seen)", "other", next(iter(pictures.values()))))
    return rows


def real_rows(data_dir: str) -> dict[str, list[Shown]]:
    """Three validation pictures of each real data set, by name of the figure."""
    heart = [images[len(images) // 2] for images in evenly(list(heart_slices(data_dir)), 3)]
    fullest = [max(images, key=lambda one: len(one.structures())) for images in abdomen_slices(data_dir)]
    pictures = evenly(list(photographs(data_dir).items()), 3)
    return {
        "heart": [of_slice(one.subject, one) for one in heart],
        "abdomen": [of_slice(one.subject, one) for one in evenly(fullest, 3)],
        "retina": [Shown(name, "other", picture) for name, picture in pictures],
    }


def main(
    output_dir: str, data_dir: str | None = None, weights: str = str(MODELS / "compact_sam.pt"), **options: Any
) -> None:
    """Writes ``compact_sam.png``, and with real data ``compact_sam_heart.png``, ``_abdomen.png`` and ``_retina.png``.

    Args:
        output_dir: folder of the figures.
        data_dir: folder with ``acdc/``, ``abdomen_ct/``, ``retina/`` and ``splits/``.
        weights: file of the model.
        options: any key of configs/samreg.json.
    """
    folder = check_output_dir(output_dir)
    (model,) = load_models([weights], options)
    draw(folder / "compact_sam.png", model, phantom_rows())
    for name, rows in real_rows(data_dir).items() if data_dir else ():
        draw(folder / f"compact_sam_{name}.png", model, rows)


if __name__ == "__main__":
    plain_errors()
    fire.Fire(main)
