"""Matching against brute force, and its explicit degenerate cases."""

from __future__ import annotations

import itertools

import pytest
import torch

from scripts.common.errors import InputError
from scripts.correspondence.matching import cosine_similarity, match, position_prior


def test_cosine_lies_in_zero_one():
    a = torch.tensor([[1.0, 0], [0, 2], [-1, 0]])
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    torch.testing.assert_close(cosine_similarity(a, a), expected)


def test_greedy_takes_the_best_first():
    s = torch.tensor([[0.95, 0.94], [0.93, 0.5]])
    found = match(s, 0.4)
    assert list(zip(found.moving.tolist(), found.fixed.tolist())) == [(0, 0), (1, 1)]
    best = match(s, 0.4, "hungarian")
    assert set(zip(best.moving.tolist(), best.fixed.tolist())) == {(0, 1), (1, 0)}
    mutual = match(s, 0.4, "mutual")
    assert list(zip(mutual.moving.tolist(), mutual.fixed.tolist())) == [(0, 0)]


def test_hungarian_equals_brute_force():
    s = torch.rand(4, 5, generator=torch.Generator().manual_seed(2))
    best = max(sum(float(s[i, c]) for i, c in enumerate(p)) for p in itertools.permutations(range(5), 4))
    assert float(match(s, 0.0, "hungarian").score.sum()) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("strategy", ["greedy", "hungarian", "mutual"])
def test_one_to_one_above_epsilon_in_order(strategy):
    s = torch.rand(12, 9, generator=torch.Generator().manual_seed(3))
    found = match(s, 0.6, strategy)
    assert len(set(found.moving.tolist())) == len(found) == len(set(found.fixed.tolist()))
    assert (found.similarity > 0.6).all()
    assert (found.score.diff() <= 0).all()
    assert len(match(s, 0.6, strategy, max_pairs=2)) == 2


def test_prior_prefers_the_near_and_rules_out_the_far():
    s = torch.tensor([[0.9, 0.95]])
    prior = position_prior(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [40.0, 0.0]]), 10.0)
    assert float(prior[0, 0]) == pytest.approx(0.8825, abs=1e-3)
    found = match(s, 0.8, prior=prior)
    assert found.fixed.tolist() == [0]
    assert float(found.similarity[0]) == pytest.approx(0.9)
    assert float(found.score[0]) == pytest.approx(0.9 * 0.8825, abs=1e-3)
    assert len(match(s[:, 1:], 0.8, prior=prior[:, 1:])) == 0


@pytest.mark.parametrize("strategy", ["greedy", "hungarian", "mutual"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_regions_give_no_pairs(strategy, shape):
    assert len(match(torch.zeros(shape), 0.5, strategy)) == 0


def test_none_above_epsilon_reports_the_best():
    found = match(torch.tensor([[0.3, 0.4]]), 0.8)
    assert len(found) == 0
    assert found.best == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 1.2}, r"epsilon must lie in \[0, 1\], got 1.2"),
        ({"epsilon": -0.1}, "got -0.1"),
        ({"strategy": "best"}, "'best'"),
        ({"max_pairs": 0}, "at least 1, got 0"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(InputError, match=message):
        match(torch.rand(2, 2), **arguments)
