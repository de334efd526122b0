# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The training images of the bundled models, and whether a new image resembles them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform
from numpy.typing import NDArray

from .intensity import apply_window, guess_window
from .reader import Volume

SAMPLED = 250_000  # voxels that are compared
SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Seen:
    """The training images of a bundled model.

    Attributes:
        model: its name in a sentence.
        images: their name in a sentence.
        windows: their intensity windows, see :func:`scripts.data.intensity.apply_window`.
        quartiles: smallest and largest value of each of the SHARES of the windowed intensities over the training
            images; None if they varied too much for a comparison.
    """

    model: str
    images: str
    windows: tuple[str, ...]
    quartiles: tuple[tuple[float, float], ...] | None = None


# Over the 160 training images of ACDC, whole and cropped to 96 pixels: python -m scripts.benchmarks.models.intensities.
_ACDC = ((0.006, 0.240), (0.032, 0.528), (0.185, 0.744))

SEEN = {
    "network": Seen("the registration network", "short-axis cardiac MR", ("mr",), _ACDC),
    "cardiac": Seen("the cardiac network", "short-axis cardiac MR", ("mr",), _ACDC),
    "compact": Seen("the compact SAM", "cardiac MR, abdominal CT and drawn shapes", ("mr", "ct")),
}


def quartiles(array: NDArray, window: str) -> tuple[float, ...]:
    """The SHARES of the windowed intensities of an image (C, *shape); colours are averaged."""
    flat = array.reshape(len(array), -1)
    some = np.ascontiguousarray(flat[:, :: max(1, flat.shape[1] // SAMPLED)], np.float32)
    grey = apply_window(torch.from_numpy(some), window).mean(dim=0)
    return tuple(torch.quantile(grey, torch.tensor(SHARES)).tolist())


def unlike(volume: Volume, model: str, window: str = "auto") -> str | None:
    """How a finite image differs from the training images of a bundled model of SEEN; None if it resembles them."""
    seen = SEEN[model]
    if window == "auto":
        window = guess_window(torch.from_numpy(np.asarray(volume.array, np.float32)))
    if window not in seen.windows:
        kinds = {"ct": "CT", "mr": "MR", "none": "a photograph or 8-bit picture"}
        return f"its intensities are those of {kinds[window]}"
    for share, value, (low, high) in zip(SHARES, quartiles(volume.array, window), seen.quartiles or ()):
        if not low <= value <= high:
            return (
                f"{share:.0%} of its intensities, scaled to [0, 1], lie below {value:.2f}; in the training images this "
                f"value was between {low:.2f} and {high:.2f}"
            )
    return None


@dataclass(eq=False)
class CompareIntensities(Transform):
    """Warns about images whose intensities were not in the training data of a bundled model.

    Args:
        model: one of SEEN.
        window: intensity window of the pair.

    Input: the output of :class:`scripts.data.pair.LoadPair`.

    Output: the same dict with "warnings", one sentence per image that differs from the training images.
    """

    model: str
    window: str = "auto"

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        seen, notes = SEEN[self.model], list(data.get("warnings", ()))
        for volume in map(data["pair"].seen, ("moving", "fixed")):
            how = unlike(volume, self.model, self.window)
            if how is not None:
                notes.append(f"{volume.path} differs from the training images of {seen.model} ({seen.images}): {how}.")
        return {**data, "warnings": notes}
