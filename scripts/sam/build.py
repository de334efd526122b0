# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The registry of Segment Anything models, and the one builder of them all.

Registration needs four operations of a model: encoding slices (:func:`scripts.sam.everything.encode`), proposing
objects (:class:`~scripts.sam.everything.EverythingMode` for models that take points,
:class:`~scripts.sam.boxes.BoxEverything` for those that take boxes only), drawing the mask of a prompt
(:class:`~scripts.sam.prompts.EncodedSlices`), and describing a mask by the embedding under it
(:func:`scripts.roi.regions.slice_prototypes`). They work for any :class:`segment_anything.modeling.Sam` with the
attributes that :func:`build_sam` sets. A new model is a function that returns one, and a line in ``SAMS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from torch import Tensor

from ..common.bundle import MODELS
from ..common.device import autocast_dtype
from ..common.errors import InputError
from ..common.fingerprint import file_sha256
from ..common.weights import load_weights, read_checkpoint
from .compact import compact_sam
from .lite_medsam import MARGIN, SHA256, fuse, lite_medsam, weights_path
from .proposals import proposal_head
from .vit import save_memory

SERVER = "https://dl.fbaipublicfiles.com/segment_anything/"
# File and SHA-256 of the released weights; the list of large files has the same (tested).
RELEASED = {
    "vit_b": ("sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "vit_l": ("sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "vit_h": ("sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    "medsam": ("medsam_vit_b.pth", None),  # its hash was never published
}
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Kind:
    """One line of the registry.

    Attributes:
        build: called with the model's name, a checkpoint or None, the expected SHA-256 ("released" for the published
            one) and further options; returns the model with its weights.
        prompts: the kinds of prompts that it accepts: "point", "box", "mask".
        no_grid: why everything mode must not prompt it with a grid of points; None if it may.
    """

    build: Callable[..., Sam]
    prompts: tuple[str, ...] = ("point", "box", "mask")
    no_grid: str | None = None


def build_sam(
    model: str = "compact",
    checkpoint: str | None = None,
    sha256: str | None = "released",
    precision: str = "float32",
    **options: Any,
) -> Sam:
    """Builds a Segment Anything model and loads its weights.

    Args:
        model: a name in ``SAMS``: "compact" (bundled), "lite_medsam" (from its package), "vit_b", "vit_l", "vit_h" or
            "medsam" (from downloaded files).
        checkpoint: weights file; None takes the released or bundled one. From the ``last.pt`` of a training of the
            compact model the averaged weights are read.
        sha256: hash the file must have: "released" for the published file, None for your own fine-tuned weights.
        precision: of the image encoder: "float32", "bfloat16", "float16", or "auto": bfloat16 where the hardware
            supports it.
        options: of the model, e.g. those of :func:`scripts.sam.compact.compact_sam` for a compact model trained at
            another size. Its widths are read from the weights; the number of tokens is not in them.

    Returns:
        The model in evaluation mode on the CPU, with the attributes ``name``, ``prompts`` (the kinds it accepts),
        ``no_grid`` (why it takes no grid of points, or None) and ``encoder_dtype``.

    Raises:
        InputError: unknown model or precision; missing package; missing, truncated or foreign file; another hash.
    """
    if model not in SAMS:
        raise InputError(f"Unknown SAM {model!r}; choose one of {', '.join(SAMS)}.")
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    kind = SAMS[model]
    sam = save_memory(kind.build(model, checkpoint, sha256, **options))
    sam.name, sam.prompts, sam.no_grid = model, kind.prompts, kind.no_grid
    sam.encoder_dtype = getattr(torch, autocast_dtype(precision, torch.device("cpu")) or "float32")
    return sam.eval()


def _compact(name: str, checkpoint: str | None, sha256: str | None, **options: Any) -> Sam:
    path = Path(checkpoint or MODELS / "compact_sam.pt")
    if not path.exists():
        raise InputError(f"The compact SAM's weights {path} are missing; restore them, or train another model.")
    state = averaged(read_checkpoint(path))
    sam = compact_sam(**{**compact_widths(state), **options})
    load_weights(sam, state, path, "SAM compact")
    return sam


def _released(name: str, checkpoint: str | None, sha256: str | None) -> Sam:
    file, known = RELEASED[name]
    path = Path(checkpoint or MODELS / file)
    if not path.exists():
        address = "the repository bowang-lab/MedSAM" if name == "medsam" else SERVER + file
        raise InputError(f"The weights of SAM {name} are not at {path}; get them from {address}, or use --sam compact.")
    check_hash(path, known if sha256 == "released" else sha256, name)
    sam = sam_model_registry["vit_b" if name == "medsam" else name]()
    load_weights(sam, read_checkpoint(path), path, f"SAM {name}")
    return sam


def _lite_medsam(
    name: str, checkpoint: str | None, sha256: str | None, proposals: str | None = None, everything: bool = True
) -> Sam:
    """LiteMedSAM and, unless ``everything`` is off, its proposal head and the compact SAM as a companion."""
    path = Path(checkpoint or weights_path())
    check_hash(path, SHA256 if sha256 == "released" else sha256, name)
    sam = lite_medsam()
    load_weights(sam, read_checkpoint(path), path, "SAM lite_medsam")
    fuse(sam)
    sam.box_margin = MARGIN
    if everything:
        sam.proposals, sam.companion = proposal_head(proposals), build_sam("compact")
    return sam


SAMS = {
    "compact": Kind(_compact),
    "lite_medsam": Kind(
        _lite_medsam,
        ("point", "box"),
        "LiteMedSAM takes boxes, not points; for everything mode add the overlay configs/sam/lite_medsam.json, which "
        "proposes boxes.",
    ),
    "vit_b": Kind(_released),
    "vit_l": Kind(_released),
    "vit_h": Kind(_released),
    "medsam": Kind(
        _released,
        ("box",),
        "MedSAM was trained with box prompts only and gives no usable masks for a grid of points; use it in prompted "
        "mode with a box, or choose --sam compact, lite_medsam or vit_b.",
    ),
}
NAMES = tuple(SAMS)


def check_hash(path: Path, expected: str | None, name: str) -> None:
    """Raises :class:`InputError` if a file does not have the expected SHA-256; None accepts any file."""
    if expected and file_sha256(path) != expected:
        raise InputError(
            f"{path} does not have the SHA-256 of SAM {name} ({expected[:12]}...): it is truncated or another file. "
            "Get it again, or give --network_def#sha256 None for weights of your own."
        )


def averaged(state: dict) -> dict:
    """The averaged weights in the state of a training (configs/train_sam.json); plain weights unchanged."""
    ema = state.get("ema")
    return {k.removeprefix("sam."): v for k, v in ema.items()} if isinstance(ema, dict) else state


def compact_widths(state: dict) -> dict[str, int]:
    """Widths of a compact model by its weights; empty for the weights of another model."""
    keys = {"embed_dim": "image_encoder.neck.0.weight", "mlp_dim": "mask_decoder.transformer.layers.0.mlp.lin1.weight"}
    return {name: len(state[key]) for name, key in keys.items() if isinstance(state.get(key), Tensor)}
