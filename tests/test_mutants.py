"""The list of mutants fits the code, and every mutant is noticed."""

from __future__ import annotations

import sys

import pytest

from tests import mutants


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: m.name)
def test_the_text_of_a_mutant_occurs_once(mutant):
    text = (mutants.ROOT / "scripts" / mutant.path).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1 and mutant.new != mutant.old
    assert all((mutants.ROOT / name).is_file() for name in mutant.tests)


@pytest.mark.slow
def test_every_mutant_is_noticed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mutants"])
    assert mutants.main() == 0, capsys.readouterr().out
