# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``--method auto``: the trained network for the images it was trained for, ROI registration for all others.

What decides, in this order: options and columns that only one method has; the preset; the images themselves, which must
be stacks of thick MR slices with the intensities of the training images; and the heart, which the bundled cardiac
network must find in the first pair. A list has one method, because a table that mixes two compares nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..common.device import pick_device
from ..common.errors import InputError
from ..data.reader import Volume, check_intensities, read_volume
from ..data.seen import SEEN, unlike
from ..masks.build import build_source
from ..spatial.files import MAX_GB, size_limit

Values = Mapping[str, Any]  # by option or column
METHODS = {"samreg": "samreg.json", "network": "inference.json"}
AUTO = "auto"
PRESET = "cardiac_mr"  # the preset for the training images of the bundled network
ABDOMEN = "abdomen_ct"  # the network has weights for it
THICK = 2.0  # least ratio of slice thickness to pixel width in a short-axis stack; in ACDC it is 2.6
HEART = ("right ventricle cavity", "myocardium", "left ventricle cavity")
# In 24 images of training patients the smallest ring was 0.84 and the smallest piece 0.95; no CT stack reached both.
RING, PIECE, ML = 0.7, 0.8, (5.0, 600.0)


@dataclass(frozen=True)
class Choice:
    """A method and why it was chosen, worded to follow "because"."""

    method: str
    reason: str


def choose(items: Iterable[Values], preset: str, options: Values, known: Mapping[str, Values]) -> Choice:
    """Chooses the method of a pair or of a list.

    Args:
        items: paths and frames of each pair, see :class:`scripts.data.pair.LoadPair`.
        preset: as given, or "default".
        options: as given.
        known: the config of each method.

    Raises:
        InputError: options of both methods, or one whose meaning depends on the method.
    """
    items = list(items)
    return (
        _by_options(options, items, known)
        or _by_preset(preset, items, options)
        or _by_images(items, options)
        or (Choice("network", f"the preset {preset} says so") if preset == PRESET else None)
        or _by_heart(items, options)
    )


def _by_options(options: Values, items: Iterable[Values], known: Mapping[str, Values]) -> Choice | None:
    given = dict.fromkeys(f"--{key.replace('::', '#').split('#')[0]}" for key in options)
    columns = dict.fromkeys(f"the column {key}" for item in items for key in item if key.endswith("_mask"))
    own = {
        "samreg": [word for word in given if word[2:] in known["samreg"] and word[2:] not in known["network"]],
        "network": [word for word in given if word[2:] in known["network"] and word[2:] not in known["samreg"]],
    }
    own["network"] += columns
    if own["samreg"] and own["network"]:
        raise InputError(
            f"{own['samreg'][0]} belongs to the method samreg and {own['network'][0]} to the method network; leave one "
            "out, or name the --method."
        )
    for method, words in own.items():
        if words:
            return Choice(method, f"{words[0]} belongs to it")
    if "--checkpoint" in given:
        raise InputError("--checkpoint means different weights in each method; name the --method.")
    return None


def _by_preset(preset: str, items: Iterable[Values], options: Values) -> Choice | None:
    if preset in ("default", PRESET):
        return None
    if preset != ABDOMEN:
        return Choice("samreg", f"the preset {preset} belongs to it")
    for volume in (v for item in items for v in _readable(item, options)):
        if volume.geometry.ndim != 3:
            return Choice("samreg", f"{volume.path} is 2-D, and the network of the preset {preset} is for volumes")
    return Choice("network", f"the preset {preset} has its own weights for it")


def _by_images(items: Iterable[Values], options: Values) -> Choice | None:
    """ROI registration if an image differs from the training images of the network; None if none does."""
    read = 0
    for item in items:
        for volume in _readable(item, options):
            read += 1
            how = _no_stack(volume) or unlike(volume, "network", str(options.get("window", "auto")))
            if how is not None:
                return Choice("samreg", f"{volume.path} is unlike {SEEN['network'].images}: {how}")
    return None if read else Choice("samreg", "no image can be read")


def _no_stack(volume: Volume) -> str | None:
    if volume.geometry.ndim != 3:
        return "it is 2-D"
    if len(volume.array) != 1:
        return "it is in colour"
    thick, wide = max(volume.geometry.spacing), min(volume.geometry.spacing)
    if thick < THICK * wide:
        return f"it is not a stack of thick slices (voxels of {wide:.3g} to {thick:.3g} mm)"
    return None


def _by_heart(items: Iterable[Values], options: Values) -> Choice:
    source = build_source("cardiac").to(pick_device(options.get("device", "auto")))
    for item in items:
        volumes = _readable(item, options)
        for volume in volumes:
            try:
                found = is_heart(source(volume, HEART, "mr").labels, volume.geometry.spacing)
            except InputError as error:
                return Choice("samreg", f"the cardiac network cannot use it: {error}")
            if not found:
                return Choice("samreg", f"the cardiac network finds no heart in {volume.path}")
        if volumes:
            return Choice("network", f"the cardiac network finds the heart in {' and '.join(v.path for v in volumes)}")
    return Choice("samreg", "no image can be read")


def _readable(item: Values, options: Values) -> list[Volume]:
    """Both images of a pair; none if one cannot be used, which is reported when the pair is registered."""
    try:
        with size_limit(options.get("max_image_gb", MAX_GB)):
            header = str(options.get("header", "auto"))
            volumes = [read_volume(item[r], frame=item.get(f"{r}_frame"), header=header) for r in ("moving", "fixed")]
        for volume in volumes:
            check_intensities(volume, options.get("fill_nan"))
    except InputError:
        return []
    return volumes


def is_heart(labels: NDArray, spacing: tuple[float, ...]) -> bool:
    """Whether labels (X, Y, Z), 1 to 3 as in HEART, have the shape of a heart.

    Each of the three structures has a plausible volume, nearly all of it in one piece, and in slices across the axis of
    the thickest voxels myocardium surrounds the cavity of the left ventricle.
    """
    for value in (1, 2, 3):
        pieces, _ = ndimage.label(labels == value)
        sizes = np.bincount(pieces.ravel())[1:]
        whole = sizes.sum()
        if not ML[0] <= whole * np.prod(spacing) / 1000 <= ML[1] or sizes.max() < PIECE * whole:
            return False
    in_plane = np.ones([1 if axis == int(np.argmax(spacing)) else 3 for axis in range(3)], bool)
    ring = ndimage.binary_dilation(labels == 3, in_plane) & (labels != 3)
    return bool((labels[ring] == 2).mean() >= RING)
