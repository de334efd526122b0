"""The models and pictures of the tests of SAM, and a data set of phantom pairs."""

from __future__ import annotations

import json

import pytest

from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom
from tests.sam_models import bundled, picture

__all__ = ["bundled", "phantom_overlay", "picture"]


@pytest.fixture(scope="session")
def phantom_overlay(tmp_path_factory) -> str:
    """Two training pairs and one validation pair, described by an overlay as in configs/datasets."""
    folder = tmp_path_factory.mktemp("phantoms")
    lists = {}
    for part, seeds in (("training", (0, 1)), ("validation", (2,))):
        pairs = []
        for seed in seeds:
            paths = write_phantom(folder / str(seed), cardiac_pair(seed, (48, 48, 6), (3.0, 3.0, 12.0)))
            roles = ("moving", "fixed", "moving_label", "fixed_label")
            pairs.append({"name": f"heart{seed}", **{role: paths[role] for role in roles}})
        lists[part] = folder / f"{part}.json"
        lists[part].write_text(json.dumps(pairs), encoding="utf-8")
    overlay = {
        "data_dir": None,
        "structures": ["right ventricle", "myocardium", "left ventricle"],
        "window": "mr",
        "strides": [2, 2, 1],
        "attention_window": [4, 4, 2],
        **{f"{part}_list": f"$read_pairs('{path}')" for part, path in lists.items()},
        "selection_list": f"$read_pairs('{lists['validation']}')",
    }
    path = folder / "overlay.json"
    path.write_text(json.dumps(overlay), encoding="utf-8")
    return str(path)
