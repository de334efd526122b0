# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The source "cardiac" or "abdomen": a compact network of the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from scipy.ndimage import gaussian_filter
from scipy.signal.windows import gaussian
from torch import Tensor

from ..common.errors import InputError
from ..common.fingerprint import fingerprint
from ..common.weights import MODELS, load_weights, read_checkpoint
from ..data.intensity import apply_window
from ..data.reader import Volume, check_intensities
from ..spatial.geometry import grid_text, resample
from .grid import as_volume, model_grid, native_labels
from .net import build_net, net_spec
from .source import Masks, MaskSource

MIDDLE_SD = 0.35  # of the prior for the position of an organ, as a fraction of the image
MIN_VOXELS = 24  # smallest side of the resampled grid that can show an organ


class BundledNet(MaskSource):
    """Masks by one of the project's own networks.

    Args:
        name: "cardiac" or "abdomen".
        checkpoint: weights; those in ``models/`` if None.
        overlap: of neighbouring windows, as a fraction of the window.
        batch: windows processed together.
        flips: averages with the mirrored image if the network allows it; doubles the time.

    Raises:
        InputError: an unknown network, or weights that are missing or of another network.
    """

    def __init__(
        self, name: str, checkpoint: str | None = None, overlap: float = 0.25, batch: int = 1, flips: bool = False
    ) -> None:
        super().__init__()
        self.name, self.spec = name, net_spec(name)
        self.offered, self.modality = self.spec.names, self.spec.modality
        path = Path(checkpoint or MODELS / f"{name}_net.pt")
        if not path.exists():
            raise InputError(f"{path} is missing; train with configs/train_masks.json, or give --checkpoint FILE.")
        if not 0 <= overlap < 1:
            raise InputError(f"overlap must be in [0, 1), got {overlap}.")
        self.net = build_net(name)
        load_weights(self.net, read_checkpoint(path), path, f"the network {name!r}")
        self.eval()
        self.flips = self.spec.flips if flips else ()
        self._identity = fingerprint(name, self.spec, overlap, self.flips, self.net)
        self.inferer = SlidingWindowInferer(
            self.spec.patch, batch, overlap, mode="gaussian", padding_mode="replicate", sigma_scale=0.125
        )

    def segment(self, volume: Volume, names: tuple[str, ...], modality: str, probabilities: bool) -> Masks:
        if volume.array.shape[0] != 1:
            raise InputError(f"{volume.path} is a colour picture; the source {self.name} needs one channel.")
        if volume.geometry.ndim == 2 and self.spec.layout != "slices":
            raise InputError(f"{volume.path} is 2-D; the source {self.name} needs a 3-D image.")
        device = next(self.parameters()).device
        image = apply_window(torch.from_numpy(check_intensities(volume)), self.spec.modality)
        image, native = as_volume(image.to(device), volume.geometry)
        grid = model_grid(native, self.spec.layout, self.spec.spacing_mm)
        if min(s for s, mm in zip(grid.shape, self.spec.spacing_mm) if mm is not None) < MIN_VOXELS:
            size = grid_text(volume.geometry)
            raise InputError(f"{volume.path} ({size}) is too small for {self.name}; give an image of the whole organ.")
        scores = self._scores(resample(image, native, grid))
        channels = [0] + [1 + self.offered.index(n) for n in names]
        every = native_labels(scores, grid, native).reshape(volume.geometry.shape)
        # The argmax is over all structures; voxels of those that were not requested become background.
        table = torch.zeros(1 + len(self.offered), dtype=torch.uint8, device=device)
        table[channels] = torch.arange(len(channels), dtype=torch.uint8, device=device)
        likely = None
        if probabilities:
            likely = resample(scores[channels[1:]], grid, native).half().cpu().reshape(-1, *volume.geometry.shape)
        return Masks(table[every.long()].cpu().numpy(), names, volume.geometry, likely)

    def _scores(self, image: Tensor) -> Tensor:
        """Probabilities (K, *shape) of an image (1, *shape) on the working grid."""
        scores = self._look(image)
        if not self.spec.focus or not scores.argmax(dim=0).any():
            return scores
        # Where a window contains most of the organ; a median could fall between the organ and a false positive.
        width = [size / 6 for size in self.spec.patch]
        density = gaussian_filter((1 - scores[0]).cpu().numpy(), width, mode="constant")
        # The organ is near the middle, so the outer one of two candidates is more likely a false positive.
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
        views = []
        for axes in dict.fromkeys(((), self.flips)):
            dims = [a + 2 for a in axes]
            views.append(self.inferer(image[None].flip(dims), self.net).softmax(dim=1).flip(dims)[0])
        return sum(views) / len(views)
