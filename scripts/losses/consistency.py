# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Inverse consistency: registering moving to fixed and fixed to moving must undo each other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..common.errors import InputError
from ..spatial.warp import compose
from .pair import LossPair


@dataclass
class InverseConsistency:
    """Mean squared distance in mm between each point and itself after both fields; a term of the loss.

    Both orders are averaged. The gradient flows through both fields.

    Attributes:
        weight: per mm squared; where it is not 0, a training registers each pair in both directions, at twice the time.

    Reference:
        Christensen and Johnson, IEEE TMI 20(7), 2001.
    """

    weight: float = 0.0

    def __call__(self, ddf: Tensor, pair: LossPair) -> Tensor:
        if pair.inverse is None:
            raise InputError("The inverse consistency term needs fields of both directions; give --inverse_weight.")
        spacing = ddf.new_tensor(list(pair.spacing)).view(1, -1, *[1] * (ddf.ndim - 2))
        both = compose(ddf, pair.inverse), compose(pair.inverse, ddf)
        return sum(((x * spacing) ** 2).sum(dim=1).mean() for x in both) / 2
