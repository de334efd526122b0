# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Pictures of kinds that the compact SAM never saw: fundus photographs, and phantoms with other textures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from ...correspondence.slicing import plan_slices
from ...data.batches import plain
from ...data.intensity import apply_window
from ...data.pair import coarsen, working_grid
from ...data.reader import read_volume
from ...roi.region_filter import RegionFilter
from ...sam.everything import EverythingMode
from .sam_slices import phantom_volumes
from .textures import TEXTURES, repaint

MAX_SIZE = 256  # of the working grid, as in configs/samreg.json


def photographs(data_dir: str) -> dict[str, Tensor]:
    """The fundus photographs (3, H, W) in 0..255 on the grid that registration works on, by name."""
    pictures = {}
    for path in sorted((Path(data_dir) / "retina").glob("*.jpg")):
        volume = read_volume(path)
        working = working_grid(volume.geometry, MAX_SIZE)
        shown = plain(apply_window(torch.from_numpy(volume.array.astype(np.float32))))
        small, _ = coarsen(shown, volume.geometry, min(working.spacing))
        pictures[path.stem] = plan_slices(working).cut(small)[0]
    return pictures


def repainted(texture: str, count: int) -> dict[str, Tensor]:
    """Phantom slices (3, H, W) in 0..255 with one of the textures, by name."""
    pictures = {}
    for number, (kind, pair) in enumerate(phantom_volumes(count, planar=True)):
        picture = torch.from_numpy(repaint(pair.moving_tissue.T, texture, number)).float()
        pictures[f"{kind} {number}"] = picture.expand(3, -1, -1)
    return pictures


def unseen(data_dir: str | None, phantoms: int) -> dict[str, dict[str, Tensor]]:
    """Pictures by kind and name; photographs only with a data folder."""
    kinds = {f"phantoms, {texture}": repainted(texture, phantoms) for texture in TEXTURES}
    return {"fundus photographs": photographs(data_dir)} | kinds if data_dir else kinds


def region_count(sam: Sam, picture: Tensor, everything: EverythingMode, keep: RegionFilter) -> int:
    """Regions that registration would have to match."""
    return len(keep(everything(sam, picture[None])[0]))
