# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The source "sat": masks by text prompts, for CT, MR and PET."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from ...common.errors import InputError
from ...common.fingerprint import file_sha256, fingerprint
from ...common.weights import MODELS, load_weights, read_checkpoint
from ...data.reader import Volume, check_intensities
from ...metrics.overlap import bounding_box
from ...spatial.geometry import Geometry, resample
from ..grid import model_grid, native_labels
from ..names import NAMES
from ..source import Masks, MaskSource, modality_of
from .network import REDUCTION, SAT, SIZES, clean_keys
from .text import SENTENCE_ENCODER, Prompts

FOLDER = MODELS / "sat"
# Weights and text encoder of each size: path in zzh99/SAT on the Hugging Face hub, and below models/sat.
FILES = {"nano": ("Nano/nano.pth", "Nano/nano_text_encoder.pth"), "pro": ("Pro/SAT_Pro.pth", "Pro/text_encoder.pth")}
SPACING_MM = (1.0, 1.0, 3.0)
CT_HU = (-500.0, 1000.0)
PERCENTILES = (0.5, 99.5)
PRECISIONS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


class SATSource(MaskSource):
    """Masks by SAT.

    Args:
        size: "nano" or "pro".
        checkpoint: released weights of that size; the released file in ``models/sat/`` if None.
        text_checkpoint: its text encoder; the released file in ``models/sat/`` if None.
        text_tower: name or folder of the sentence encoder, see :mod:`scripts.masks.sat.text`.
        prompts: file of embedded names; ``models/sat/SIZE_prompts.npz`` if None.
        window: sliding window in voxels of 1 x 1 x 3 mm, multiples of 32.
        overlap: of neighbouring windows.
        query_batch: names decoded together.
        precision: "float32", "float16" or "bfloat16"; if None, float16 on CUDA and float32 elsewhere.
        any_name: also accepts names that are not in the registry.

    Raises:
        InputError: an unknown size, missing or unsuitable weights, or a window that the network cannot use.
    """

    name, offered = "sat", NAMES

    def __init__(
        self,
        size: str = "nano",
        checkpoint: str | None = None,
        text_checkpoint: str | None = None,
        text_tower: str = SENTENCE_ENCODER,
        prompts: str | None = None,
        window: Sequence[int] = (288, 288, 96),
        overlap: float = 0.5,
        query_batch: int = 32,
        precision: str | None = None,
        any_name: bool = False,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise InputError(f"Unknown size {size!r} of SAT; choose one of {', '.join(SIZES)}.")
        if precision is not None and precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
        if len(window) != 3 or any(w < REDUCTION or w % REDUCTION for w in window):
            raise InputError(f"SAT's window must be three multiples of {REDUCTION}, got {list(window)}.")
        weights, text_weights = FILES[size]
        path = Path(checkpoint or FOLDER / weights)
        if not path.exists():
            raise InputError(
                f"The weights of SAT {size} are not at {path}; get {weights} from zzh99/SAT on the Hugging Face hub, "
                "or use the source cardiac or abdomen, which needs no download."
            )
        saved = read_checkpoint(path)
        self.network = SAT(size, query_batch)
        load_weights(self.network, clean_keys(saved.get("model_state_dict", saved)), path, f"SAT {size}")
        self.eval()
        self.prompts = Prompts(
            prompts or FOLDER / f"{size}_prompts.npz", text_checkpoint or FOLDER / text_weights, text_tower
        )
        self.any_name, self.precision = any_name, precision
        self._identity = fingerprint("sat", size, file_sha256(path), tuple(window), overlap, precision)
        self.inferer = SlidingWindowInferer(
            tuple(window), 1, overlap, mode="gaussian", sigma_scale=0.125, device=torch.device("cpu")
        )

    @torch.no_grad()
    def segment(self, volume: Volume, names: tuple[str, ...], modality: str, probabilities: bool) -> Masks:
        if volume.geometry.ndim != 3 or volume.array.shape[0] != 1:
            raise InputError(f"{volume.path} has the shape {volume.array.shape}; SAT needs a 3-D image of one channel.")
        kind = modality_of(volume, modality)
        queries = self.prompts(names, kind)
        device = next(self.parameters()).device
        native = volume.geometry
        image = torch.from_numpy(check_intensities(volume)).to(device)
        working, ready = prepare(image, native, kind)
        dtype = PRECISIONS[self.precision] if self.precision else (torch.float16 if device.type == "cuda" else None)

        def predict(window: Tensor) -> Tensor:
            with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                logits = self.network(window.expand(-1, 3, -1, -1, -1), queries.to(device))
            return logits.float().sigmoid()

        likely = self.inferer(ready[None], predict)[0]
        # A constant first channel of 0.5 makes the background win where no prompt is above 0.5.
        labels = native_labels(torch.cat([torch.full_like(likely[:1], 0.5), likely]), working, native)
        kept = resample(likely, working, native, fill=0.0).half() if probabilities else None
        return Masks(labels.numpy(), names, native, kept)


def prepare(image: Tensor, native: Geometry, modality: str) -> tuple[Geometry, Tensor]:
    """Prepares an image (1, *native.shape), raw intensities on a 3-D grid, as in the training of SAT.

    "ct" clips to -500..1000 HU, other modalities to the 0.5 and 99.5 percentiles.

    Returns:
        the grid (RAS, 1 x 1 x 3 mm, cropped to the foreground) and the image there, (1, X, Y, Z), mean 0, variance 1.
    """
    grid = model_grid(native, "RAS", SPACING_MM)
    values = resample(image, native, grid)
    low, high = CT_HU if modality == "ct" else percentiles(values)
    values = values.clamp(low, high)
    inside = values[0] > values.min()
    box = bounding_box(inside, 0) if inside.any() else tuple(slice(0, s) for s in inside.shape)
    values = values[(slice(None), *box)]
    return grid.cropped(box), (values - values.mean()) / values.std().clamp_min(1e-6)


def percentiles(values: Tensor) -> tuple[float, float]:
    """The 0.5 and 99.5 percentiles; ``torch.quantile`` refuses whole volumes."""
    flat = values.flatten()
    ranks = (max(1, min(flat.numel(), round(p / 100 * flat.numel()))) for p in PERCENTILES)
    return tuple(float(flat.kthvalue(rank).values) for rank in ranks)
