# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""One builder for every Segment Anything model that the project runs: ours, the released ones, MedSAM."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from ..common.errors import InputError
from ..common.fingerprint import file_sha256
from ..common.weights import load_weights, read_checkpoint
from .compact import compact_sam
from .vit import save_memory

logger = logging.getLogger(__name__)

MODELS = Path(__file__).resolve().parents[2] / "models"
_SERVER = "https://dl.fbaipublicfiles.com/segment_anything/"
# File, address and SHA-256 of the released weights; large_files.yml lists the same (tested).
RELEASED = {
    "vit_b": (
        "sam_vit_b_01ec64.pth",
        _SERVER + "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": (
        "sam_vit_l_0b3195.pth",
        _SERVER + "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": (
        "sam_vit_h_4b8939.pth",
        _SERVER + "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    # The hash of MedSAM's file was never published.
    "medsam": ("medsam_vit_b.pth", "the repository bowang-lab/MedSAM", None),
}
NAMES = ("compact", *RELEASED)
PRECISIONS = ("float32", "bfloat16", "float16")


def build_sam(
    model: str = "compact",
    checkpoint: str | None = None,
    sha256: str | None = "released",
    precision: str = "float32",
    **compact,
) -> Sam:
    """Builds a Segment Anything model and loads its weights.

    Args:
        model: "compact" (bundled), "vit_b", "vit_l", "vit_h", or "medsam" (box prompts only).
        checkpoint: weights file; the one in ``models/`` if None. The ``last.pt`` of a training of the compact model
            stands for its averaged weights.
        sha256: hash the file must have: "released" for the published file, None for your own fine-tuned weights.
        precision: of the image encoder: "float32", or "bfloat16" or "float16" for speed where the hardware has them.
        compact: arguments of :func:`scripts.sam.compact.compact_sam`, for a compact model trained at another size. Its
            widths are read from the weights; the number of tokens is not in them.

    Returns:
        The model in evaluation mode on the CPU. ``everything_refused`` holds the reason, if any, why it must not be
        asked to segment everything.

    Raises:
        InputError: unknown model or precision; missing, truncated or foreign file; another hash.
    """
    if model not in NAMES:
        raise InputError(f"Unknown SAM {model!r}; choose one of {', '.join(NAMES)}.")
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    if model == "compact":
        path = Path(checkpoint or MODELS / "compact_sam.pt")
        if not path.exists():
            raise InputError(
                f"The compact SAM's weights {path} are missing; restore the file or train with configs/train_sam.json."
            )
    else:
        file, address, known = RELEASED[model]
        path = Path(checkpoint or MODELS / file)
        if not path.exists():
            raise InputError(
                f"The weights of SAM {model} are not at {path}; get them from {address}, or run with --sam compact, "
                "which needs no download."
            )
        expected = known if sha256 == "released" else sha256
        if expected and file_sha256(path) != expected:
            raise InputError(
                f"{path} does not have the SHA-256 of SAM {model} ({expected[:12]}...): it is truncated or another "
                "file; download it again, or give --network_def#sha256 None for weights of your own."
            )
        sam = sam_model_registry["vit_b" if model == "medsam" else model]()
    state = averaged(read_checkpoint(path))
    if model == "compact":
        sam = compact_sam(**{**compact_widths(state), **compact})
    load_weights(sam, state, path, f"SAM {model}")
    save_memory(sam)
    sam.encoder_dtype = getattr(torch, precision)
    sam.everything_refused = None
    if model == "medsam":
        sam.everything_refused = (
            "MedSAM was trained with box prompts only and gives no usable masks for a grid of points; "
            "use it in prompted mode with a box, or choose --sam compact or vit_b."
        )
    return sam.eval()


def averaged(state: dict) -> dict:
    """The averaged weights in the state of a training (configs/train_sam.json); plain weights as they are."""
    ema = state.get("ema")
    return {k.removeprefix("sam."): v for k, v in ema.items()} if isinstance(ema, dict) else state


def compact_widths(state: dict) -> dict[str, int]:
    """Widths of a compact model by its weights; nothing where they are of another model."""
    keys = {"embed_dim": "image_encoder.neck.0.weight", "mlp_dim": "mask_decoder.transformer.layers.0.mlp.lin1.weight"}
    return {name: len(state[key]) for name, key in keys.items() if isinstance(state.get(key), Tensor)}
