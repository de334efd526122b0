# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Training samples of the compact SAM: two augmented views of one slice, with the same masks and matching points."""

from __future__ import annotations

import numpy as np
import torch
from monai.transforms import Randomizable
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ...common.errors import InputError
from .slices import Slice

MIN_AREA, MAX_AREA = 0.0012, 0.5  # of the view
GROUP_CLASS = 40  # classes of groups come after the single structures


class SamViews(Randomizable, Dataset):
    """Random pairs of views.

    Args:
        slices: slices by source.
        weights: relative frequency of each source; sources without slices are skipped.
        length: samples per epoch.
        img_size: side of a view in pixels.
        mask_size: side of the mask targets, four times the tokens of the model.
        max_masks: masks per view, padded with empty ones.
        points: matching points per pair of views.
        unions: most unions of two touching structures per sample, in addition to the groups of the slices.

    Raises:
        InputError: an unknown source, or no slices of the sources that have a weight.

    Each sample is a dict:
        image: (2, 1, S, S) float32 in 0..255.
        masks: (2, M, m, m) uint8, share of each cell covered, 255 for all of it.
        classes: (M,) int64; anatomical class, 0 for a region without one, -1 for padding.
        points: (2, N, 2) float32 pixel coordinates (x, y) of the same places in both views.
        visible: (N,) bool, whether a point lies in both views.
    """

    def __init__(
        self,
        slices: dict[str, list[Slice]],
        weights: dict[str, float],
        length: int,
        img_size: int = 256,
        mask_size: int = 96,
        max_masks: int = 16,
        points: int = 48,
        unions: int = 0,
    ) -> None:
        unknown = set(weights) - {"acdc", "abdomen", "phantom", "shapes"}
        if unknown:
            raise InputError(f"Unknown sources {sorted(unknown)}; known are acdc, abdomen, phantom, shapes.")
        self.slices = {k: v for k, v in slices.items() if v and weights.get(k, 0) > 0}
        if not self.slices:
            raise InputError(
                f"No training slices: the sources are {', '.join(sorted(slices)) or 'none'}, and the weights are "
                f"{weights}; give one of them a weight above 0."
            )
        self.names = sorted(self.slices)
        share = np.array([weights[n] for n in self.names])
        self.share = share / share.sum()
        self.length, self.img_size, self.mask_size = length, img_size, mask_size
        self.max_masks, self.points, self.unions = max_masks, points, unions

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        source = self.slices[self.names[self.R.choice(len(self.names), p=self.share)]]
        return self.views(source[self.R.randint(len(source))])

    def views(self, item: Slice) -> dict[str, Tensor]:
        """Two random views of one slice."""
        picture, layers = self._turn(item.image, item.layers)
        grids = self._grids(layers[0])
        image = torch.from_numpy(picture.astype(np.float32) / 255)[None, None].expand(2, -1, -1, -1)
        labels = torch.from_numpy(layers.astype(np.float32))[None].expand(2, -1, -1, -1)
        seen = F.grid_sample(image, grids, "bilinear", "zeros", False)
        labels = F.grid_sample(labels, grids, "nearest", "zeros", False).to(torch.int32)
        masks, classes = self._masks(labels, item)
        points, visible = self._matches(grids, seen[0, 0])
        views = torch.stack([self._intensity(v) for v in seen])
        return {"image": views * 255, "masks": masks, "classes": classes, "points": points, "visible": visible}

    def _turn(self, picture: np.ndarray, layers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """With probability 0.5, one of the eight orientations of the square, the same for both views."""
        if self.R.rand() < 0.5:
            return picture, layers
        turns, flip = self.R.randint(4), self.R.rand() < 0.5
        picture, layers = np.rot90(picture, turns), np.rot90(layers, turns, (1, 2))
        if flip:
            picture, layers = picture[:, ::-1], layers[..., ::-1]
        return np.ascontiguousarray(picture), np.ascontiguousarray(layers)

    def _grids(self, names: np.ndarray) -> Tensor:
        """Sampling grids (2, S, S, 2), normalised source coordinates: crop, rotation, an elastic part in view 2."""
        height, width = names.shape
        found = np.argwhere(names > 0)
        if len(found) and self.R.rand() < 0.7:
            centre = found[self.R.randint(len(found))][::-1] + self.R.normal(0, 0.05, 2) * (width, height)
        else:
            centre = self.R.uniform(0.3, 0.7, 2) * (width, height)
        extent = max(height, width) * np.exp(self.R.uniform(np.log(0.42), np.log(1.1)))
        # The centre of a large crop moves to the middle of the slice.
        centre = centre + (np.array([width, height]) / 2 - centre) * np.clip(extent / max(height, width), 0, 1) ** 2
        line = (torch.arange(self.img_size) + 0.5) / self.img_size - 0.5
        square = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
        grids = []
        for view in range(2):
            angle = np.deg2rad(self.R.normal(0, 15))
            size = extent * np.exp(self.R.normal(0, 0.08, 2))
            c, s = np.cos(angle), np.sin(angle)
            matrix = torch.tensor(np.array([[c, -s], [s, c]]) * size, dtype=torch.float32)
            place = square @ matrix.T + torch.tensor(centre + self.R.normal(0, 0.05, 2) * extent, dtype=torch.float32)
            if view and self.R.rand() < 0.8:
                coarse = torch.tensor(self.R.normal(0, 0.022 * extent, (1, 2, 5, 5)), dtype=torch.float32)
                bend = F.interpolate(coarse, (self.img_size, self.img_size), mode="bicubic", align_corners=True)
                place = place + bend[0].permute(1, 2, 0)
            grids.append(place)
        return torch.stack(grids) / torch.tensor([width, height]) * 2 - 1

    def _masks(self, labels: Tensor, item: Slice) -> tuple[Tensor, Tensor]:
        """Masks (2, M, m, m) and their classes (M,): structures and groups first, then class-agnostic regions."""
        low, high = MIN_AREA * self.img_size**2, MAX_AREA * self.img_size**2
        named: list[tuple[int, tuple[int, ...], int]] = []
        for value in self._values(labels[:, 0], low, high):
            named.append((0, (value,), item.class_offset + value if item.class_offset else 0))
        present = {v for _, values, _ in named for v in values}
        for g, group in enumerate(item.groups):
            if present & set(group):
                named.append((0, tuple(group), item.class_offset + GROUP_CLASS + g if item.class_offset else 0))
        if self.unions:
            known = {values for _, values, _ in named}
            pairs = [p for p in touching(labels[0, 0], labels[1, 0]) if set(p) <= present and p not in known]
            self.R.shuffle(pairs)
            named += [(0, p, 0) for p in pairs[: self.unions]]
        # A point inside a structure means that structure, so regions must lie outside the named ones.
        free = torch.where(labels[:, :1] > 0, 0, labels[:, 1:])
        regions = []
        for k in range(free.shape[1]):
            left, whole = (torch.bincount(x.flatten()) for x in (free[:, k], labels[:, k + 1]))
            regions += [(k + 1, (v,), 0) for v in self._values(free[:, k], low, high) if left[v] > 0.7 * whole[v]]
        labels = torch.cat([labels[:, :1], free], dim=1)
        self.R.shuffle(named)
        self.R.shuffle(regions)
        room = max(self.max_masks - min(len(regions), self.max_masks // 4), 0)
        chosen = (named[:room] + regions)[: self.max_masks]
        masks = torch.zeros(2, self.max_masks, self.img_size, self.img_size)
        classes = torch.full((self.max_masks,), -1, dtype=torch.int64)
        for m, (layer, values, cls) in enumerate(chosen):
            for value in values:
                masks[:, m] += labels[:, layer] == value
            classes[m] = cls
        masks = F.interpolate(masks, (self.mask_size, self.mask_size), mode="area")
        return (masks * 255).round().to(torch.uint8), classes

    @staticmethod
    def _values(label: Tensor, low: float, high: float) -> list[int]:
        """Label values of a reasonable size in both views."""
        top = int(label.max()) + 1
        counts = torch.stack([torch.bincount(view.flatten(), minlength=top) for view in label])
        good = ((counts >= low) & (counts <= high)).all(dim=0)
        good[0] = False
        return good.nonzero()[:, 0].tolist()

    def _matches(self, grids: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Random bright points of view 1 and the pixels of view 2 that show the same places."""
        size = self.img_size
        bright = (first > 0.04).flatten().nonzero()[:, 0]
        if len(bright) < self.points:
            bright = torch.arange(size * size)
        picks = bright[torch.as_tensor(self.R.randint(0, len(bright), self.points))]
        sought = grids[0].reshape(-1, 2)[picks]
        step = 4
        coarse = grids[1, step // 2 :: step, step // 2 :: step]
        distance, nearest = torch.cdist(sought, coarse.reshape(-1, 2)).min(dim=1)
        side = coarse.shape[0]
        here = torch.stack([picks % size, picks // size], dim=1).float() + 0.5
        there = torch.stack([nearest % side, nearest // side], dim=1).float() * step + step / 2 + 0.5
        pixel = (grids[1, 1, 1] - grids[1, 0, 0]).norm()
        return torch.stack([here, there]), distance < step * pixel

    def _intensity(self, view: Tensor) -> Tensor:
        """Random gamma, contrast, inversion, bias field, blur, resolution and noise of one view (1, S, S) in [0, 1]."""
        rand = self.R
        if rand.rand() < 0.08:
            view = 1 - view
        view = view.clamp_min(1e-4) ** float(np.exp(rand.normal(0, 0.25)))
        view = view * float(rand.uniform(0.7, 1.25)) + float(rand.uniform(-0.1, 0.1))
        if rand.rand() < 0.4:
            coarse = torch.tensor(rand.uniform(0.65, 1.35, (1, 1, 3, 3)), dtype=torch.float32)
            view = view * F.interpolate(coarse, view.shape[1:], mode="bicubic", align_corners=True)[0]
        if rand.rand() < 0.25:
            small = int(self.img_size * rand.uniform(0.35, 0.8))
            view = F.interpolate(view[None], (small, small), mode="area")
            view = F.interpolate(view, (self.img_size, self.img_size), mode="bilinear", align_corners=False)[0]
        if rand.rand() < 0.6:
            noise = torch.from_numpy(rand.standard_normal(view.shape).astype(np.float32))
            view = view + noise * float(rand.uniform(0.005, 0.06))
        return view.clamp(0, 1)


def touching(*views: Tensor) -> list[tuple[int, int]]:
    """Pairs of structures of a label map (S, S) that touch in every view, smaller value first."""
    common: set[tuple[int, int]] | None = None
    for view in views:
        found = set()
        for a, b in ((view[1:], view[:-1]), (view[:, 1:], view[:, :-1])):
            border = (a != b) & (a > 0) & (b > 0)
            pairs = torch.stack([torch.minimum(a, b)[border], torch.maximum(a, b)[border]], dim=1)
            found |= {tuple(pair) for pair in pairs.unique(dim=0).tolist()}
        common = found if common is None else common & found
    return sorted(common or set())
