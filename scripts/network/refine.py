# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Instance optimisation: a few steps of the training loss on the field of one pair, stopped early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..common.errors import InputError
from ..losses.registration import field_terms
from ..spatial.warp import compose, integrate, resize_ddf


@dataclass(frozen=True)
class RefineSettings:
    """How a predicted field is refined.

    Attributes:
        steps: most optimiser steps; 0 leaves the prediction as it is.
        learning_rate: step size in voxels of the half-resolution grid of the correction.
        patience: steps without improvement that end it.
        weights: of the terms of :func:`scripts.losses.registration.field_terms`.
        lncc_kernel: window of the correlation in voxels.
        max_points: of a contour.
    """

    steps: int = 0
    learning_rate: float = 0.1
    patience: int = 8
    weights: Mapping[str, float] = field(
        default_factory=lambda: {"lncc": 1.0, "diffusion": 0.8, "dice": 1.0, "contour": 0.005}
    )
    lncc_kernel: int = 9
    max_points: int = 1024

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"The steps of the instance optimisation must not be negative, got {self.steps}.")


def refine(
    ddf: Tensor,
    images: Tensor,
    labels: Tensor,
    structures: int,
    spacing: Sequence[float],
    settings: RefineSettings,
    progress: Callable[[float], None] | None = None,
) -> tuple[Tensor, list[float]]:
    """Composes the field with a smooth correction that lowers the loss of this pair.

    The correction is the exponential of a velocity field at half resolution, so it does not fold; the best state is
    returned, which is the prediction itself where no step improves it.

    Args:
        ddf: (1, n, *shape) voxels, the prediction.
        images: (2, *shape) moving and fixed.
        labels: (2, *shape) moving and fixed masks as labels; zeros where there are none.
        structures: number of structures.
        spacing: mm along each axis.
        settings: how.
        progress: called with the loss after every step.

    Returns:
        the field, and the loss of every step, the first one that of the prediction.
    """
    shape = ddf.shape[2:]
    coarse = [max(2, (s + 1) // 2) if s > 3 else s for s in shape]
    best, best_loss, best_step = ddf.detach(), float("inf"), 0
    history: list[float] = []
    # MONAI's evaluator switches gradients off around the inferer.
    with torch.inference_mode(False), torch.enable_grad():
        ddf, images, labels = (x.detach().clone() for x in (ddf, images, labels))
        velocity = torch.zeros(1, len(shape), *coarse, device=ddf.device, requires_grad=True)
        optimizer = torch.optim.Adam([velocity], lr=settings.learning_rate)
        for step in range(settings.steps + 1):
            current = compose(ddf, resize_ddf(integrate(velocity), shape))
            terms = field_terms(current, images, labels, structures, spacing, settings.lncc_kernel, settings.max_points)
            loss = sum(settings.weights.get(key, 0.0) * value for key, value in terms.items())
            history.append(float(loss.detach()))
            if history[-1] < best_loss:
                best, best_loss, best_step = current.detach(), history[-1], step
            if progress is not None:
                progress(history[-1])
            if step == settings.steps or step - best_step >= settings.patience:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return best, history
