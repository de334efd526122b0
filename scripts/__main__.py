# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Command line: ``python -m scripts register MOVING FIXED --output_dir OUT``."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_type_hints

import fire
from monai.bundle import ConfigParser

from .common.errors import InputError
from .verbs import register as verb
from .verbs.compose import compose
from .verbs.evaluate import evaluate, summary_text
from .verbs.invert import invert
from .verbs.warp import warp
from .workflow.outcome import INTERRUPTED, ExitCode, input_error
from .workflow.plan import plan_text
from .workflow.run import BUNDLE, PATHS, check_switch, no_option, run_bundle

FILES = ("input", "output", "transforms", "reference", "cases", "fields", "submission")  # of the other verbs


@functools.wraps(verb.register)  # fire shows its arguments and its help
def register(*arguments: Any, dry_run: bool = False, **options: Any) -> None:
    """What the verb does in Python; here the plan is printed, and the exit code says how it went."""
    configs, values = verb.resolve(*arguments, **options)
    if dry_run:
        sys.stdout.write(plan_text(configs, values))
    else:
        verb.run(configs, values)


def correspond(moving: str, fixed: str, output_dir: str, device: str = "auto", seed: int = 0, **options: Any) -> None:
    """Finds the region that a point, box or mask in one image marks, in both images.

    Args:
        moving: first image.
        fixed: second image.
        output_dir: folder of the results.
        device: auto, cpu, cuda or mps.
        seed: of everything random.
        options: --prompt_image moving|fixed and --points "[[x,y,z]]" with --labels "[1]", --box "[[x,y,z],[x,y,z]]" or
            --mask FILE; --points_frame ras|lps|voxel; and any key of configs/samreg.json and configs/correspond.json.
    """
    run_bundle(
        ["samreg.json", "correspond.json"],
        {"moving": moving, "fixed": fixed, "output_dir": output_dir, "device": device, "seed": seed, **options},
    )


def shown(result: dict[str, Any] | None) -> str:
    """What a verb returns as text for the terminal: the summary of an evaluation, else JSON."""
    if result is None:
        return ""
    return (summary_text(result) if "summary" in result else json.dumps(result, indent=2)) + "\n"


def masks(
    images: str,
    names: str,
    output_dir: str,
    source: str = "cardiac",
    device: str = "auto",
    modality: str = "auto",
    **options: Any,
) -> None:
    """Segments structures by name in one image or a list, and writes one label map an image.

    Args:
        images: an image, a pattern such as "data/*.nii.gz", or a list: one path a line (.txt), or JSON.
        names: structures, e.g. "liver,spleen"; the i-th has the value i.
        output_dir: folder of the results; images whose masks stand there already are skipped.
        source: cardiac, abdomen, sat, bundle:PATH or files:PATTERN, e.g. "files:{folder}/{stem}_gt.nii.gz".
        device: auto, cpu, cuda or mps.
        modality: auto, ct, mr, us or pet.
        options: options of the source, e.g. --size pro --checkpoint FILE, or --values "{'liver': 6}"; and any key of
            configs/masks.json.
    """
    files = ["masks.json", *(["masks_vista3d.json"] if source == "bundle:vista3d" else [])]
    known = ConfigParser.load_config_files([str(BUNDLE / "configs" / name) for name in files])
    of_source = {**(known["source_options"] or {}), **{k: v for k, v in options.items() if k not in known}}
    chosen = {"images": images, "names": names, "output_dir": output_dir, "source": source, "modality": modality}
    settings = {k: v for k, v in options.items() if k in known}
    run_bundle(files, {**chosen, "device": device, "source_options": of_source, **settings})


def calls(words: Sequence[str]) -> list[Callable[[], Any]]:
    """What the words ask for, not yet run: fire notices a word that nobody knows only after the call.

    Raises:
        InputError: a word that is not understood, or one that is missing.
    """
    noted: list[Callable[[], Any]] = []
    verbs = {name: spelled(verb, noted) for name, verb in VERBS.items()}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # fire's own words of what is wrong, and its usage
            fire.Fire(verbs, command=list(words), name=NAME)
    except fire.core.FireExit as end:
        if end.code:
            raise misread(words[0], end.trace.elements[-1]) from end
        raise
    return noted


def spelled(function: Callable, noted: list[Callable[[], Any]]) -> Callable:
    """A verb that only notes how it is called, once what it is given is what was written.

    File names are taken as they are: fire would read 1e3 as a number and end a#b at the #. What is on or off is True or
    False: fire would take "no" as a word, which counts as on.
    """
    switches = {name for name, hint in get_type_hints(function).items() if bool in (hint, *get_args(hint))}

    @functools.wraps(function)
    def note(*arguments: Any, **options: Any) -> None:
        given = inspect.signature(function).bind(*arguments, **options).arguments
        for name in switches & given.keys():
            if given[name] is not None:
                check_switch(name, given[name])
        noted.append(functools.partial(function, *arguments, **options))

    as_written = dict.fromkeys((*PATHS, *FILES), lambda text: None if text == "None" else text)
    return fire.decorators.SetParseFns(**as_written)(note)


def misread(verb: str, found: fire.trace.FireTraceElement) -> InputError:
    """One sentence for what fire could not read, where it says a page."""
    if verb not in VERBS:
        return InputError(f"There is no command {verb!r}; choose one of {', '.join(VERBS)}.")
    what, rest = found.ErrorAsStr(), f"{NAME} {verb} --help says what it takes"
    if not what.startswith("Could not consume"):
        return InputError(f"{what}; {rest}.")
    word = found.args[0]
    if word.startswith("-"):
        key = word.lstrip("-").split("=")[0].replace("-", "_")
        return no_option(key, inspect.signature(VERBS[verb]).parameters)
    return InputError(f"{word!r} is one word too many; {rest}.")


VERBS = {verb.__name__: verb for verb in (register, correspond, masks, warp, invert, compose, evaluate)}
NAME = "python -m scripts"


def main() -> None:
    """Runs the command; bad input ends it with one sentence and exit code 1."""
    words = sys.argv[1:]
    if not words or words[-1] in ("--help", "-h"):  # a verb with free options would take it for one of them
        fire.Fire(VERBS, command=[*(w for w in words[:1] if w in VERBS), "--", "--help"], name=NAME)  # ends here
    try:
        for call in calls(words):
            result = call()
            sys.stdout.write(shown(result))
            if result and result.get("failed"):
                sys.exit(ExitCode.SOME_FAILED)
    except KeyboardInterrupt:
        sys.stderr.write(f"{INTERRUPTED}\n")
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:
        plain = input_error(error)
        if plain is None:
            raise
        sys.stderr.write(f"error: {plain}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
