# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Command line: ``python -m scripts register MOVING FIXED --output_dir OUT``."""

from __future__ import annotations

import sys
from typing import Any

import fire

from scripts.cohort.plan import plan_text
from scripts.cohort.register import resolve, run
from scripts.engine.outcome import input_error
from scripts.engine.run import run_bundle


def register(
    moving: str | None = None,
    fixed: str | None = None,
    output_dir: str | None = None,
    pairs: str | None = None,
    preset: str = "default",
    dry_run: bool = False,
    device: str = "auto",
    seed: int = 0,
    **options: Any,
) -> None:
    """Registers two images, or all pairs of a list, with the help of Segment Anything and writes the results.

    Args:
        moving: image to move: NIfTI, NRRD, MHA, PNG, JPEG, or a folder with a DICOM series.
        fixed: image that stays.
        output_dir: folder of the results.
        pairs: instead of two images: a CSV or JSON list of pairs, see docs/cohorts.md.
        preset: default, abdomen_ct, cardiac_mr, prostate_mr or retina; explicit options win.
        dry_run: print the plan and stop.
        device: auto, cpu, cuda or mps.
        seed: of everything random.
        options: any key of configs/samreg.json, e.g. --init affine --window ct --sam vit_b --image_weight 1.
    """
    options = {"device": device, "seed": seed, **options}
    configs, values = resolve(moving, fixed, output_dir, pairs, preset, options)
    if dry_run:
        sys.stdout.write(plan_text(configs, values))
    else:
        run(configs, values)


def correspond(moving: str, fixed: str, output_dir: str, device: str = "auto", seed: int = 0, **options: Any) -> None:
    """Finds the region that a point, box or mask in one image marks, in both images.

    Args:
        moving: first image.
        fixed: second image.
        output_dir: folder of the results.
        device: auto, cpu, cuda or mps.
        seed: of everything random.
        options: --source moving|fixed and --points "[[x,y,z]]" with --labels "[1]", --box "[[x,y,z],[x,y,z]]" or
            --mask FILE; --prompt_frame ras|lps|voxel; and any key of configs/samreg.json and configs/correspond.json.
    """
    run_bundle(
        ["samreg.json", "correspond.json"],
        {"moving": moving, "fixed": fixed, "output_dir": output_dir, "device": device, "seed": seed, **options},
    )


def main() -> None:
    """Runs the command; bad input ends it with one sentence and exit code 1."""
    try:
        fire.Fire({"register": register, "correspond": correspond}, name="python -m scripts")
    except Exception as error:
        plain = input_error(error)
        if plain is None:
            raise
        sys.stderr.write(f"error: {plain}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
