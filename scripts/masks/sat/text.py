# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Prompt embeddings of SAT, computed once by a sentence encoder and kept in a small file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...common.errors import InputError
from ...common.files import whole_file
from ...common.weights import load_weights, read_checkpoint
from .network import QUERY

MODALITY_NUMBER = {"ct": 0, "mr": 1, "us": 2, "pet": 3}
SENTENCE_ENCODER = "FremyCompany/BioLORD-2023-C"
DROPPED = ("atlas_tower", "temperature")  # parts that only its training needs


class TextEncoder(nn.Module):
    """BioLORD (an MPNet from ``transformers``), mean pooling, a projection, and the embedding of the modality."""

    def __init__(self, tower: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        hidden = tower.config.hidden_size
        self.text_tower = nn.ModuleDict({"biolord": tower})
        self.projection_layer = nn.Sequential(nn.Linear(hidden, QUERY), nn.GELU(), nn.Linear(QUERY, QUERY))
        self.modality_embed = nn.Embedding(len(MODALITY_NUMBER), QUERY)
        self.tokenizer = tokenizer

    @torch.no_grad()
    def forward(self, names: Sequence[str], modality: str) -> Tensor:
        """Embeds names: (N, 768)."""
        tokens = self.tokenizer(list(names), padding=True, truncation=True, max_length=64, return_tensors="pt")
        inputs = {key: tokens[key] for key in ("input_ids", "attention_mask")}
        words = self.text_tower["biolord"](**inputs).last_hidden_state
        mask = tokens["attention_mask"][..., None].to(words)
        pooled = (words * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1e-9)
        return self.projection_layer(pooled) + self.modality_embed.weight[MODALITY_NUMBER[modality]]


def load_text_encoder(checkpoint: str | Path, tower: str = SENTENCE_ENCODER) -> TextEncoder:
    """Loads SAT's text encoder; ``tower`` is the name or folder of the sentence encoder's configuration and tokenizer.

    Raises:
        InputError: ``transformers`` is not installed, the sentence encoder cannot be loaded, or the weights do not fit.
    """
    try:
        from transformers import AutoConfig, AutoModel, AutoTokenizer
    except ImportError as error:
        raise InputError("SAT's text encoder needs the package transformers; pip install transformers.") from error
    saved = read_checkpoint(checkpoint)
    try:
        encoder = TextEncoder(
            AutoModel.from_config(AutoConfig.from_pretrained(tower)), AutoTokenizer.from_pretrained(tower)
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{tower} cannot be loaded ({reason}); give its folder with --text_tower.") from error
    state = {key.removeprefix("module."): value for key, value in saved.get("model_state_dict", saved).items()}
    # Position numbers are a buffer in some versions of transformers and absent in others.
    dropped = (*DROPPED, "position_ids")
    state = {key: value for key, value in state.items() if not any(word in key for word in dropped)}
    state |= {key: value for key, value in encoder.state_dict().items() if key.endswith("position_ids")}
    load_weights(encoder, state, checkpoint, "SAT's text encoder")
    return encoder.eval()


class Prompts:
    """Embedded names, kept on disk so that each name needs the text encoder only once.

    Args:
        cache: an .npz file; written when the first name is embedded.
        checkpoint: SAT's text encoder; read only for names that are not in the file.
        tower: see :func:`load_text_encoder`.
    """

    def __init__(self, cache: str | Path, checkpoint: str | Path, tower: str = SENTENCE_ENCODER) -> None:
        self.cache, self.checkpoint, self.tower = Path(cache), checkpoint, tower

    def __call__(self, names: Sequence[str], modality: str) -> Tensor:
        """Embeddings (N, 768) of names for images of one modality."""
        kept: dict[str, np.ndarray] = {}
        if self.cache.exists():
            try:
                with np.load(self.cache, allow_pickle=False) as file:
                    kept = {key: file[key] for key in file.files}
            except (OSError, ValueError) as error:
                raise InputError(f"{self.cache} is not a readable file of prompts; delete it.") from error
        keys = [f"{modality}|{name}" for name in names]
        missing = [name for name, key in zip(names, keys) if key not in kept]
        if missing:
            embedded = load_text_encoder(self.checkpoint, self.tower)(missing, modality).float().numpy()
            kept.update({f"{modality}|{name}": vector for name, vector in zip(missing, embedded)})
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.cache) as part, part.open("wb") as stream:
                np.savez(stream, **kept)
        return torch.from_numpy(np.stack([kept[key] for key in keys]))
