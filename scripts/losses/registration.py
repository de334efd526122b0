# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The loss of a registered pair: a weighted sum of named terms (equation 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .pair import LossPair, Term


class RegistrationLoss:
    """Weighted sum of terms; a MONAI trainer calls it with the fields of a batch.

    Args:
        terms: by name; a term of weight 0 is not computed.

    Attributes:
        active: the terms that are computed.
        terms: the last unweighted value of each, for logging.

    Reference:
        equation 11 of Xu et al., IPMI 2025.
    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        self.active = {name: term for name, term in terms.items() if term.weight}
        self.terms: dict[str, float] = {}

    def __call__(self, registered: Sequence[tuple[Tensor, LossPair]], targets: None = None) -> Tensor:
        """Mean loss of a batch.

        Args:
            registered: field (1, n, *shape) in voxels and pair, for each pair of the batch.
            targets: unused; the pairs contain them.

        Returns:
            scalar.

        Raises:
            FloatingPointError: a term is not finite; names the pair.
        """
        rows = [self.evaluate(ddf, pair) for ddf, pair in registered]
        means = {name: torch.stack([row[name] for row in rows]).mean() for name in self.active}
        self.terms = {name: float(value.detach()) for name, value in means.items()}
        return self.total(means)

    def evaluate(self, ddf: Tensor, pair: LossPair) -> dict[str, Tensor]:
        """The unweighted terms of one pair.

        Raises:
            FloatingPointError: a term is not finite.
        """
        values = {name: term(ddf, pair) for name, term in self.active.items()}
        bad = [name for name, value in values.items() if not torch.isfinite(value)]
        if bad:
            raise FloatingPointError(f"The loss of {pair.name} is not a number ({', '.join(bad)}).")
        return values

    def total(self, values: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the terms."""
        return sum(self.active[name].weight * value for name, value in values.items())
