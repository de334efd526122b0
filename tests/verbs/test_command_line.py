"""Reading the command line: help, kinds of values, unknown words, all without loading torch."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module
from typing import get_args, get_type_hints

import pytest

from scripts.common.errors import InputError
from scripts.verbs.command_line import COMMANDS, Command, module_of, parse
from scripts.workflow.options import KINDS, OPTIONS, check_value, defaults

# Keys that wire a config together; they can be set, but have no help line.
WIRING = {"bundle_root", "imports", "prepare", "run", "finalize", "network", "handlers", "columns", "entries"}
WIRING |= {"use_click", "inputs"}  # use_click is set by MONAI Label
CONFIGS = sorted({file for files in COMMANDS.values() for file in files})


@pytest.mark.parametrize("file", CONFIGS)
def test_every_option_of_a_config_has_a_help_line(file):
    simple = {k for k, v in defaults(file).items() if not isinstance(v, dict) or k in KINDS}
    assert simple - WIRING - KINDS.keys() == set()


def test_every_help_line_is_of_an_option():
    keys = {key for file in CONFIGS for key in defaults(file)}
    assert set(KINDS) - keys == set()
    for options in OPTIONS.values():
        for name, (kind, text) in options.items():
            assert kind in ("file", "text", "number", "whole", "switch", "value"), name
            assert text[-1] != "." and len(text) < 110, name


@pytest.mark.parametrize("file", CONFIGS)
def test_defaults_are_of_their_kind(file):
    for name, default in defaults(file).items():
        if not isinstance(default, dict):
            check_value(name, default, default)


@pytest.mark.parametrize("name", COMMANDS)
def test_signatures_are_those_of_the_functions(name):
    """They are read from the source, must agree with Python, and each has a help line."""
    function = getattr(import_module(f"scripts.{module_of(name)}"), name)
    found = {p.name: p.default for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD}
    read = {a.name: inspect.Parameter.empty if a.required else a.default for a in Command(name, "x").arguments.values()}
    assert read == found
    assert all(a.help and "``" not in a.help for a in Command(name, "x").arguments.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_none_is_refused_where_the_function_does_not_take_it(name):
    """Also for an argument with a default, such as the output folder of evaluate."""
    function = getattr(import_module(f"scripts.{module_of(name)}"), name)
    hints, arguments = get_type_hints(function), Command(name, "x").arguments
    for argument in arguments:
        words = [name, *(f"--{other}=1" for other, a in arguments.items() if a.required and other != argument)]
        if type(None) in get_args(hints[argument]):
            assert parse([*words, f"--{argument}=None"], "x")[1][argument] is None
        else:
            with pytest.raises(InputError, match=f"--{argument} cannot be None; x {name} --help"):
                parse([*words, f"--{argument}=None"], "x")


def test_help_is_grouped_with_defaults_and_loads_nothing_heavy(bundle):
    code = (
        "import sys, time; sys.argv = ['scripts', 'register', '--help']\n"
        "from scripts.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "sys.stderr.write(repr([time.process_time(), 'torch' in sys.modules, 'monai' in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, encoding="utf-8")
    seconds, torch, monai = json.loads(run.stderr.replace("F", "f"))
    assert seconds < 2 and not torch and not monai
    shown = " ".join(run.stdout.split())
    for part in (
        "usage: python -m scripts register [MOVING] [FIXED] [OUTPUT_DIR] [options]",
        "Segment Anything: --sam TEXT",
        "--init FILE initial alignment: none, moments, affine, or a transform file (default: none)",
        "--epsilon NUMBER least similarity of a pair of regions, 0 to 1 (default: 0.8)",
        "Network registration (--method network):",
        "--evaluator#amp True",
    ):
        assert part in shown


@pytest.mark.parametrize("words", [[], ["--help"], *([name, "--help"] for name in COMMANDS), ["warp", "a", "-h"]])
def test_help_of_every_command(words, capsys):
    with pytest.raises(SystemExit) as end:
        parse(words, "samreg")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: samreg ") and "==SUPPRESS==" not in shown and "``" not in shown


def test_words_become_arguments():
    words = ["a#b.nii.gz", "1e3", "--output-dir", "out", "--epsilon=0.5", "--dry_run", "--max_pairs", "None"]
    words += ["--position_sigma_mm", "-1", "--evaluator#amp", "True", "--min_area", "$0.1"]
    assert parse(["register", *words], "x") == (
        "register",
        {
            "moving": "a#b.nii.gz", "fixed": "1e3", "output_dir": "out", "epsilon": 0.5, "dry_run": True,
            "max_pairs": None, "position_sigma_mm": -1, "evaluator#amp": True, "min_area": "$0.1",
        },
    )  # fmt: skip
    _, found = parse(["correspond", "a", "b", "o", "--points", "[[1, -2.5, 3]]", "--labels", "[1]"], "x")
    assert found["points"] == [[1, -2.5, 3]] and found["labels"] == [1]
    _, found = parse(["register", "--structures", "[left ventricle, heart]"], "x")
    assert found["structures"] == ["left ventricle", "heart"]
    _, found = parse(["masks", "a", "--names", "liver,spleen", "--output_dir", "o", "--values", "{'liver': 6}"], "x")
    assert found["names"] == "liver,spleen" and found["values"] == {"liver": 6}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("wrap a b", "There is no command 'wrap'; choose one of register, correspond, masks, warp"),
        ("register a b c extra", "unexpected argument 'extra'; python -m scripts register --help"),
        ("register a --moving b", "moving was given twice, as 'a' and as --moving"),
        ("invert a", "invert needs output; python -m scripts invert --help"),
        ("register a b --epsilom 1", r"There is no option --epsilom; did you mean --epsilon\?"),
        ("warp a b c --interpolatoin cubic", r"no option --interpolatoin; did you mean --interpolation\?"),
        ("warp a b c --Learn2Reg", "no option --Learn2Reg; did you mean --learn2reg"),
        ("register a b --evaluatr#amp True", "no option --evaluatr#amp; did you mean --evaluator"),
        ("register a b --epsilon abc", "--epsilon must be a number, got 'abc'"),
        ("register a b --position_sigma_mm abc", "--position_sigma_mm must be a number, got 'abc'"),
        ("register a b --max_pairs 2.5", "--max_pairs must be a whole number, got 2.5"),
        ("register a b --seed None", "--seed must be a whole number, got None"),
        ("register a b --output_dir", "--output_dir expected one argument"),
        ("register a b --dense off", "--dense must be True or False, got 'off'"),
        ("register a b --dry_run yes", "--dry_run must be True or False, got 'yes'"),
        ("warp a b c --label no", "--label must be True or False, got 'no'"),
        ("warp a b c --fill black", "--fill must be a number, got 'black'"),
        ("masks a LV out --progress 0", "--progress must be True or False, got 0"),
    ],
)
def test_bad_command_lines_are_refused_in_one_sentence(words, message):
    with pytest.raises(InputError, match=message) as found:
        parse(words.split(), "python -m scripts")
    assert str(found.value).count("\n") == 0
