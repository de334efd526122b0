# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Names of structures and their synonyms."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from ..common.errors import InputError

# The project's name of each structure, and its synonyms. A name is also SAT's prompt, if SAT has one.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "left ventricle cavity": ("lv", "left ventricle", "left ventricular cavity", "lv cavity", "lv blood pool"),
    "right ventricle cavity": ("rv", "right ventricle", "right ventricular cavity", "rv cavity", "rv blood pool"),
    "myocardium": ("myo", "lv myocardium", "left ventricle myocardium", "left ventricular myocardium"),
    "left heart atrium": ("la", "left atrium", "left atrium cavity"),
    "right heart atrium": ("ra", "right atrium", "right atrium cavity"),
    "heart": ("whole heart",),
    "aorta": ("abdominal aorta", "thoracic aorta"),
    "pulmonary artery": (),
    "pulmonary vein": (),
    "inferior vena cava": ("ivc", "postcava"),
    "superior vena cava": ("svc",),
    "portal vein and splenic vein": ("portal and splenic vein", "portal and splenic veins", "portal vein", "psv"),
    "spleen": (),
    "liver": (),
    "stomach": (),
    "pancreas": (),
    "gallbladder": ("gall bladder",),
    "esophagus": ("oesophagus",),
    "duodenum": (),
    "small bowel": ("small intestine", "small bowels"),
    "colon": ("large bowel", "large intestine"),
    "rectum": (),
    "urinary bladder": ("bladder",),
    "prostate": (),
    "uterus": (),
    "prostate or uterus": (),
    "kidney": ("kidneys",),
    "right kidney": ("kidney right", "r kidney"),
    "left kidney": ("kidney left", "l kidney"),
    "adrenal gland": ("adrenal glands",),
    "right adrenal gland": ("right adrenal", "adrenal gland right"),
    "left adrenal gland": ("left adrenal", "adrenal gland left"),
    "lung": ("lungs",),
    "left lung": ("lung left",),
    "right lung": ("lung right",),
    "left lung upper lobe": ("upper lobe of left lung",),
    "left lung lower lobe": ("lower lobe of left lung",),
    "right lung upper lobe": ("upper lobe of right lung",),
    "right lung middle lobe": ("middle lobe of right lung",),
    "right lung lower lobe": ("lower lobe of right lung",),
    "trachea": ("windpipe",),
    "brain": (),
    "hippocampus": ("hippocampi",),
    "spinal cord": (),
    "thyroid gland": ("thyroid",),
    "vertebrae": ("spine", "vertebral column"),
    "sacrum": (),
    "sternum": (),
    "rib": ("ribs",),
    **{
        f"{side} {part}": (f"{part} {side}", *(f"{side} {other}" for other in others))
        for part, *others in (
            ("femur",), ("hip",), ("humerus",), ("scapula",), ("clavicle", "clavicula"), ("gluteus maximus",),
            ("iliopsoas",),
        )
        for side in ("left", "right")
    },
}  # fmt: skip

_CANONICAL = {word: name for name, others in SYNONYMS.items() for word in (name, *others)}
NAMES = tuple(SYNONYMS)


def canonical(word: str) -> str:
    """The project's name for a structure, whatever the case, hyphens or underscores; other words are tidied up."""
    tidy = " ".join(word.lower().replace("_", " ").replace("-", " ").split())
    return _CANONICAL.get(tidy, tidy)


def split_names(words: str | Iterable[str]) -> tuple[str, ...]:
    """Names from a list, a tuple, or a string with commas."""
    words = words.split(",") if isinstance(words, str) else words or ()
    parts = list(words) if isinstance(words, Iterable) else [words]
    if not all(isinstance(p, str) for p in parts):
        raise InputError(f'Names must be words, got {parts!r}; give e.g. --names "liver,spleen".')
    names = tuple(p.strip() for p in parts if p.strip())
    if not names:
        raise InputError('No anatomical name was given; give e.g. --names "liver,spleen".')
    return names


def resolve(words: str | Iterable[str], offered: Sequence[str], source: str) -> tuple[str, ...]:
    """The requested structures as entries of ``offered``, the names of a source, in the order of the words.

    Raises:
        InputError: a name that the source does not have (near matches are listed), or a name given twice.
    """
    by_name = {canonical(name): name for name in offered}
    found: list[str] = []
    for word in split_names(words):
        name = by_name.get(canonical(word))
        if name is None:
            spoken = {w: n for n in by_name for w in (n, *SYNONYMS.get(n, ()))}
            near = difflib.get_close_matches(canonical(word), spoken, n=3, cutoff=0.5)
            options = list(dict.fromkeys(spoken[w] for w in near))
            shown = list(by_name)[:8]
            hint = f"it has {', '.join(shown)}{', ...' if len(by_name) > len(shown) else ''}."
            if options:
                hint = f"did you mean {' or '.join(map(repr, options))}?"
            raise InputError(f"The source {source} has no structure {word!r}; {hint}")
        if name in found:
            raise InputError(f"The structure {word!r} is given twice; name it once.")
        found.append(name)
    return tuple(found)
