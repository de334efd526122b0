# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The weights that a training of a Segment Anything model begins with."""

from __future__ import annotations

from segment_anything.modeling import Sam

from scripts.weights import load_weights, read_checkpoint


def start_from(sam: Sam, path: str | None) -> Sam:
    """Loads the weights that a training begins with, e.g. those of an earlier one; None leaves them random.

    Raises:
        InputError: the file is missing, unreadable, or of another architecture.
    """
    if path is not None:
        load_weights(sam, read_checkpoint(path), path, "SAM compact")
    return sam
