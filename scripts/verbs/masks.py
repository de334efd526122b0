# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``masks``: label maps of structures by name, for one image or many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..workflow.options import defaults
from ..workflow.run import run_bundle


def masks(
    images: str | Path | Sequence[str],
    names: str | Sequence[str],
    output_dir: str | Path,
    source: str = "cardiac",
    **options: Any,
) -> list[dict[str, Any]]:
    """Segments structures by name, in one image or a list of images, and writes one label map for each image.

    Args:
        images: an image, a pattern such as "data/*.nii.gz", or a list: one path per line (.txt), or JSON.
        names: structures, e.g. "liver,spleen"; the i-th one gets the value i.
        output_dir: folder of the results; an image whose masks are complete is skipped.
        source: cardiac, abdomen, sat, bundle:PATH (runs the bundle's own code; one that belongs to another user needs
            --trust True) or files:PATTERN, e.g. "files:{folder}/{stem}_gt.nii.gz".
        options: options of the source, e.g. size="pro", checkpoint=FILE or values={"liver": 6}; and any key of
            configs/masks.json.

    Returns:
        a record for each image: "image", "status", "seconds", and where it succeeded "file", "labels" and "ml".

    Raises:
        InputError: the input cannot be used, or every image failed.
    """
    files = ["masks.json", *(["masks_vista3d.json"] if source == "bundle:vista3d" else [])]
    known = defaults(*files)
    of_source = {k: v for k, v in options.items() if k not in known}  # an option that the config does not have
    values = {
        "images": str(images) if isinstance(images, Path) else images,
        "names": names,
        "output_dir": str(output_dir),
        "source": source,
        "source_options": {**(known["source_options"] or {}), **of_source},
    }
    workflow = run_bundle(files, {**values, **{k: v for k, v in options.items() if k in known}})
    return workflow.parser.get_parsed_content("summary").records
