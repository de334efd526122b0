# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Instance optimisation: a few steps of the loss on the field of one pair, stopped early."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..common.errors import InputError
from ..losses.contour import Contour
from ..losses.overlap import Dice
from ..losses.pair import LossPair, Term
from ..losses.registration import RegistrationLoss
from ..losses.similarity import LNCC
from ..losses.smoothness import Diffusion
from ..spatial.warp import compose, integrate, resize_ddf


@dataclass(frozen=True)
class RefineSettings:
    """How a predicted field is refined.

    Attributes:
        steps: maximum number of optimiser steps; 0 keeps the prediction.
        learning_rate: step size in voxels of the half-resolution grid of the correction.
        patience: steps without improvement before it stops.
        terms: of the loss, by name.
    """

    steps: int = 0
    learning_rate: float = 0.1
    patience: int = 8
    terms: Mapping[str, Term] = field(
        default_factory=lambda: {
            "lncc": LNCC(), "diffusion": Diffusion(), "dice": Dice(2.0), "contour": Contour()
        }
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"The steps of the instance optimisation must not be negative, got {self.steps}.")


def refine(
    ddf: Tensor, pair: LossPair, settings: RefineSettings, progress: Callable[[float], None] | None = None
) -> tuple[Tensor, list[float]]:
    """Composes the field with a smooth correction that lowers the loss of this pair.

    The correction is the exponential of a velocity field at half resolution, so it does not fold. The best state is
    returned: the prediction, if no step improves it.

    Args:
        ddf: (1, n, *shape) voxels, the prediction.
        pair: images and mask labels; labels of zeros if there are no masks.
        settings: of the optimisation.
        progress: called with the loss after every step.

    Returns:
        the field, and the loss before the first and after every step.
    """
    shape = ddf.shape[2:]
    coarse = [max(2, (s + 1) // 2) if s > 3 else s for s in shape]
    best, best_loss, best_step = ddf.detach(), float("inf"), 0
    history: list[float] = []
    # MONAI's evaluator switches gradients off around the inferer.
    with torch.inference_mode(False), torch.enable_grad():
        ddf, images, labels = (x.detach().clone() for x in (ddf, pair.images, pair.labels))
        valid = None if pair.valid is None else pair.valid.detach().clone()
        pair = LossPair(images, labels, pair.structures, pair.spacing, name=pair.name, valid=valid)
        loss_of = RegistrationLoss(settings.terms)
        velocity = torch.zeros(1, len(shape), *coarse, device=ddf.device, requires_grad=True)
        optimizer = torch.optim.Adam([velocity], lr=settings.learning_rate)
        for step in range(settings.steps + 1):
            current = compose(ddf, resize_ddf(integrate(velocity), shape))
            loss = loss_of([(current, pair)])
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
