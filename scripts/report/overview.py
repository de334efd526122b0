# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""All pictures of a registration on one sheet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .panels import Draw

LAYOUT = (("moving", "fixed", "before"), ("after", "grid", "jacobian"))


def overview(path: str | Path, panels: Mapping[str, Draw], title: str) -> None:
    """Draws the sheet as a PNG file, with a title above the panels; without a field, its places say so."""
    figure = Figure(figsize=(15, 10.4), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    for row, axes in zip(LAYOUT, figure.subplots(2, 3)):
        for name, axis in zip(row, axes):
            if name in panels:
                panels[name](axis)
            else:
                axis.text(0.5, 0.5, "no dense field", ha="center", va="center", transform=axis.transAxes)
            axis.set_axis_off()
    figure.suptitle(title)
    figure.savefig(path)
