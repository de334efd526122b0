"""A quick stand-in for everything mode: bands of brightness are masks, without a network."""

from __future__ import annotations

import time

import torch
from scipy import ndimage
from torch import Tensor

from scripts.sam.slice_masks import SliceMasks

TOKENS = 8
CELLS = 4 * TOKENS


class Bands:
    """Connected pieces of bands of equal brightness; each band has its own direction in the embedding.

    Args:
        bands: number of bands.
        seconds: duration of a call at least, for tests that stop a run.
    """

    slices_per_batch = 8

    def __init__(self, bands: int = 5, seconds: float = 0.0) -> None:
        self.bands, self._seconds = bands, seconds

    def __call__(self, sam, slices: Tensor, window=None) -> list[SliceMasks]:
        time.sleep(self._seconds)
        return [self._slice(one.mean(dim=0)) for one in slices]

    def _slice(self, image: Tensor) -> SliceMasks:
        small = torch.nn.functional.adaptive_avg_pool2d(image[None], CELLS)[0] / 255
        band = (small * self.bands).long().clamp(max=self.bands - 1)
        one_hot = torch.stack([band == b for b in range(self.bands)]).float()
        embedding = torch.nn.functional.adaptive_avg_pool2d(one_hot, TOKENS) + 1e-3
        logits = []
        for mask in one_hot[1:]:
            pieces, count = ndimage.label(mask.numpy())
            logits += [torch.from_numpy(pieces == n).float() * 12 - 6 for n in range(1, count + 1)]
        empty = SliceMasks.empty(embedding, (CELLS, CELLS), CELLS, tuple(image.shape), 0.0)
        if not logits:
            return empty
        ones = torch.ones(len(logits))
        return empty.with_masks(torch.stack(logits), ones * 0.95, ones, torch.zeros(2))
