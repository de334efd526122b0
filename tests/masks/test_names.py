from __future__ import annotations

import pytest

from scripts.common.errors import InputError
from scripts.masks.names import SYNONYMS, canonical, resolve, split_names
from scripts.masks.net import NETS

HEART = NETS["cardiac"].names


def test_no_word_means_two_structures():
    words = [word for name, others in SYNONYMS.items() for word in (name, *others)]
    assert len(words) == len(set(words))
    assert all(word == word.lower() and "_" not in word and "-" not in word for word in words)


@pytest.mark.parametrize("word", ["LV", "left ventricle", "Left_Ventricle cavity", " left-ventricle  cavity "])
def test_synonyms(word):
    assert canonical(word) == "left ventricle cavity"


def test_bundled_networks_use_the_registry():
    for spec in NETS.values():
        assert all(name in SYNONYMS for name in spec.names)


def test_resolve_keeps_the_order_and_the_words_of_the_source():
    assert resolve("rv, LV", HEART, "cardiac") == ("right ventricle cavity", "left ventricle cavity")
    assert resolve(["LEFT VENTRICLE"], ("LV", "RV"), "files") == ("LV",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("livr", "The source abdomen has no structure 'livr'; did you mean 'liver'"),
        ("quux", "The source abdomen has no structure 'quux'; it has spleen, right kidney, "),
        ("liver, Liver", "'Liver' is given twice"),
        (" , ", "No anatomical name was given"),
        ([3], "Names must be words"),
        (3, "Names must be words"),
    ],
)
def test_names_that_cannot_be_used(words, message):
    with pytest.raises(InputError, match=message):
        resolve(words, NETS["abdomen"].names, "abdomen")


def test_split():
    assert split_names("a, b ,,c") == ("a", "b", "c")
    assert split_names(("a", "b")) == ("a", "b")
