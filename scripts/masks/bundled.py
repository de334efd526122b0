# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The source "cardiac" or "abdomen": a compact network of the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from scipy.ndimage import gaussian_filter
from scipy.signal.windows import gaussian
from torch import Tensor, nn

from ..common.errors import InputError
from ..common.weights import load_weights, read_checkpoint
from ..data.intensity import apply_window
from ..data.reader import Volume, check_intensities
from ..spatial.geometry import grid_text, resample
from .grid import as_volume, native_labels, working_grid
from .names import resolve
from .net import build_net, net_spec
from .source import Masks, digest, warn_modality

MODELS = Path(__file__).resolve().parents[2] / "models"
MIDDLE_SD = 0.35  # of the prior for the place of an organ, as a share of the image
MIN_VOXELS = 24  # along an axis of the working grid that is resampled; less shows no organ


class BundledNet(nn.Module):
    """Masks by one of the project's own networks; a :class:`scripts.masks.source.MaskSource`.

    Args:
        name: "cardiac" or "abdomen".
        checkpoint: weights; those in ``models/`` if None.
        overlap: of neighbouring windows, as a share of the window.
        batch: windows at once.
        flips: average with the mirrored image where the network allows it; takes twice the time.

    Raises:
        InputError: unknown network; missing or foreign weights.
    """

    def __init__(
        self, name: str, checkpoint: str | None = None, overlap: float = 0.25, batch: int = 1, flips: bool = False
    ) -> None:
        super().__init__()
        self.name, self.spec = name, net_spec(name)
        path = Path(checkpoint or MODELS / f"{name}_net.pt")
        if not path.exists():
            raise InputError(
                f"The network {name!r} has no weights at {path}; train them with configs/train_anatomy.json, or give "
                "--checkpoint FILE."
            )
        self.net = build_net(name)
        state = read_checkpoint(path)
        load_weights(self.net, state, path, f"the network {name!r}")
        self.eval()
        if not 0 <= overlap < 1:
            raise InputError(f"overlap must lie in [0, 1), got {overlap}.")
        self.flips = self.spec.flips if flips else ()
        self.offered = self.spec.names
        self.identity = digest(name, self.spec, overlap, self.flips, *(v.numpy() for v in state.values()))
        self.inferer = SlidingWindowInferer(
            self.spec.patch, batch, overlap, mode="gaussian", padding_mode="replicate", sigma_scale=0.125
        )

    def forward(
        self, volume: Volume, names: Sequence[str] | str, modality: str = "auto", probabilities: bool = False
    ) -> Masks:
        """See :class:`scripts.masks.source.MaskSource`."""
        wanted = resolve(names, self.offered, self.name)
        self._check(volume)
        warn_modality(self.name, self.spec.modality, volume, modality)
        device = next(self.parameters()).device
        image = apply_window(torch.from_numpy(check_intensities(volume)), self.spec.modality)
        image, native = as_volume(image.to(device), volume.geometry)
        working = working_grid(native, self.spec.layout, self.spec.spacing_mm)
        sizes = [s for s, mm in zip(working.shape, self.spec.spacing_mm) if mm is not None]
        if min(sizes) < MIN_VOXELS:
            raise InputError(
                f"{volume.path} covers {grid_text(volume.geometry)}, too little for the source {self.name}; give an "
                "image of the whole organ."
            )
        scores = self._scores(resample(image, native, working))
        channels = [0] + [1 + self.offered.index(n) for n in wanted]
        every = native_labels(scores, working, native).reshape(volume.geometry.shape)
        # The argmax is over all structures: a voxel of one that was not asked for is background.
        table = torch.zeros(1 + len(self.offered), dtype=torch.uint8, device=device)
        table[channels] = torch.arange(len(channels), dtype=torch.uint8, device=device)
        likely = resample(scores[channels[1:]], working, native).half().cpu() if probabilities else None
        if likely is not None:
            likely = likely.reshape(-1, *volume.geometry.shape)
        return Masks(table[every.long()].cpu().numpy(), wanted, volume.geometry, likely)

    def _scores(self, image: Tensor) -> Tensor:
        """Probabilities (K, *shape) of an image (1, *shape) on the working grid."""
        scores = self._look(image)
        if not self.spec.focus or not scores.argmax(dim=0).any():
            return scores
        # Where most of the organ lies within the reach of a window; a median could fall between it and a mistake.
        density = gaussian_filter(
            (1 - scores[0]).cpu().numpy(), [size / 6 for size in self.spec.patch], mode="constant"
        )
        # An organ that an image was taken of lies near its middle; of two finds the outer one is likelier a mistake.
        for axis in self.spec.focus:
            size = density.shape[axis]
            prior = gaussian(size, MIDDLE_SD * size)
            density *= prior.reshape([-1 if a == axis else 1 for a in range(density.ndim)])
        middle = np.unravel_index(density.argmax(), density.shape)
        window = [slice(None)] * scores.ndim
        for axis in self.spec.focus:
            size = self.spec.patch[axis]
            first = max(0, min(int(middle[axis]) - size // 2, image.shape[axis + 1] - size))
            window[axis + 1] = slice(first, first + size)
        scores = torch.zeros_like(scores)
        scores[0] = 1
        scores[tuple(window)] = self._look(image[tuple(window)])
        return scores

    @torch.no_grad()
    def _look(self, image: Tensor) -> Tensor:
        """Probabilities (K, *shape) of an image (1, *shape), window by window."""
        views = [(), self.flips] if self.flips else [()]
        total = 0
        for axes in views:
            dims = [a + 2 for a in axes]
            logits = self.inferer(image[None].flip(dims), self.net)
            total = total + logits.softmax(dim=1).flip(dims)
        return (total / len(views))[0]

    def _check(self, volume: Volume) -> None:
        if volume.array.shape[0] != 1:
            raise InputError(f"{volume.path} is a colour picture; the source {self.name} needs one channel.")
        if volume.geometry.ndim == 2 and self.spec.layout != "slices":
            raise InputError(f"{volume.path} is 2-D; the source {self.name} needs a 3-D image.")
