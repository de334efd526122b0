# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Sentences for the user about the regions and pairs that were found."""

from __future__ import annotations

from ..correspondence.result import Registration
from .matcher import Matcher


def pair_doubts(result: Registration, matcher: Matcher, too_few: bool) -> list[str]:
    """What the user should know about the pairs, in sentences.

    Args:
        result: with regions and matches.
        matcher: that found the pairs; its ``epsilon`` is named if there are none.
        too_few: whether the field is the initial alignment alone for want of pairs.
    """
    for name, regions in (("moving", result.moving), ("fixed", result.fixed)):
        if not len(regions):
            found = sum(len(s) for s in regions.slices)
            return [
                f"No region was found in the {name} image ({found} masks after the filter); lower "
                "--pred_iou_thresh or --stability_score_thresh, widen --min_area and --max_area, or try "
                "another --window or --sam."
            ]
    if not len(result.matches):
        return [
            f"None of {len(result.moving)} moving and {len(result.fixed)} fixed regions match above epsilon "
            f"{matcher.epsilon:g} (the most similar two have {result.matches.best:.2f}); lower --epsilon."
        ]
    if too_few:
        return [
            f"Too few pairs of regions ({len(result.matches)}) were found to improve on the initial alignment: the "
            "field is that alignment alone; lower --pred_iou_thresh, or set --image_weight."
        ]
    if len(result.matches) == 1:
        return ["Only one pair of regions was found: away from it the field is little more than a translation."]
    return []
