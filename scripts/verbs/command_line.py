# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Reading the command line: ``register MOVING FIXED --output_dir OUT --epsilon 0.7``.

Built on argparse, which groups the options of a command and needs no other package. The arguments of a command come
from its function, the options from the configs. Values are Python literals, otherwise text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.errors import InputError
from ..workflow.options import KINDS, OPTIONS, check_value, defaults, no_option, read_value
from .signature import read_signature

# Command -> config files whose keys are its options; the first is the one that runs by default.
COMMANDS: dict[str, tuple[str, ...]] = {
    "register": ("samreg.json", "inference.json", "cohort.json"),
    "correspond": ("samreg.json", "correspond.json"),
    "masks": ("masks.json",),
    "warp": (),
    "invert": (),
    "compose": (),
    "evaluate": (),
    "summarise": (),
    "plot": (),
    "app": (),
}
# Where the function of a command is, if it is not in the module of its name in this folder.
MODULES = {"app": "apps.web.app"}
METAVARS = {"file": "FILE", "text": "TEXT", "number": "NUMBER", "whole": "N", "switch": "True|False", "value": "VALUE"}


def module_of(name: str) -> str:
    """The module of a command, below this package."""
    return MODULES.get(name, f"verbs.{name}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        name, _, rest = message.removeprefix("argument ").partition(": ")
        raise InputError(f"{name} {rest}." if message.startswith("argument ") else f"{message}.")


class Command:
    """What the command ``name`` takes; ``program`` is what the user types before it."""

    def __init__(self, name: str, program: str) -> None:
        self.name, self.program = name, f"{program} {name}"
        source = Path(__file__).parents[1].joinpath(*module_of(name).split("."))
        self.signature = read_signature(source.with_suffix(".py"), name)
        self.config = defaults(*(reversed(COMMANDS[name]) if name == "register" else COMMANDS[name]))
        self.arguments = {a.name: a for a in self.signature.arguments}

    def parse(self, words: Sequence[str]) -> dict[str, Any]:
        """Arguments and options by name, with values of the right kind; exits after ``--help``, with code 0."""
        words, deep = self._named(words)
        parser = self._parser(deep)
        given = vars(parser.parse_intermixed_args(words))
        rest = f"{self.program} --help shows what it takes"
        free = [a.name for a in self.signature.arguments if a.by_position]
        positional = given.pop("words", [])
        if len(positional) > len(free):
            raise InputError(f"unexpected argument {positional[len(free)]!r}; {rest}.")
        for name, word in zip(free, positional):
            if name in given:
                raise InputError(f"{name} was given twice, as {word!r} and as --{name}.")
            given[name] = word
        missing = [a.name for a in self.signature.arguments if a.required and a.name not in given]
        if missing:
            raise InputError(f"{self.name} needs {missing[0]}; {rest}.")
        return {name: word if word is True else self._read(name, word) for name, word in given.items()}

    def _named(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """The words with underscores in option names, and the names of options that point into the config.

        Raises:
            InputError: an option that does not exist.
        """
        result, deep = [], []
        known = {*self.arguments, *self.config, "help"} if self.signature.free else {*self.arguments, "help"}
        for word in words:
            if word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                name = name.replace("-", "_")
                top = name.replace("::", "#").split("#")[0]
                if top not in known and self.name != "masks":  # masks passes other options to its source
                    raise no_option(name, known)
                if name not in self.arguments and not (name in KINDS and name in self.config):
                    deep.append(name)
                word = f"--{name}{equals}{value}"
            result.append(word)
        return result, [name for name in dict.fromkeys(deep) if name != "help"]

    def _read(self, name: str, text: str) -> Any:
        argument = self.arguments.get(name)
        kind = argument.kind if argument else KINDS.get(name, "value")
        value = read_value(text, kind)
        if value is None and argument and not argument.may_be_none:
            raise InputError(f"--{name} cannot be None; {self.program} --help shows what it takes.")
        check_value(name, value, argument.default if argument else self.config.get(name), kind)
        return value

    def _parser(self, deep: Sequence[str]) -> argparse.ArgumentParser:
        free = [a for a in self.signature.arguments if a.by_position]
        required = [a.name.upper() for a in free if a.required]
        usage = " ".join(required or [f"[{a.name.upper()}]" for a in free[:3]])
        parser = _Parser(
            self.program,
            usage=f"{self.program} {usage} [options]",
            description=self.signature.summary,
            epilog=self._epilog(),
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
        own = parser.add_argument_group("arguments")
        for argument in self.signature.arguments:
            end = " (required)" if argument.required else default_text(argument.default)
            self._add(own, argument.name, argument.kind, argument.help + end)
        for title, options in OPTIONS.items() if self.signature.free else ():
            group = parser.add_argument_group(title)
            for name, (kind, text) in options.items():
                if name in self.config and name not in self.arguments:
                    self._add(group, name, kind, text + default_text(self.config[name]))
        for name in deep:
            self._add(parser, name, KINDS.get(name, "value"), argparse.SUPPRESS)
        return parser

    def _add(self, group: Any, name: str, kind: str, text: str) -> None:
        optional = {"nargs": "?", "const": True} if kind == "switch" else {}
        text = text.replace("%", "%%") if text != argparse.SUPPRESS else text
        group.add_argument(f"--{name}", dest=name, metavar=METAVARS[kind], help=text, **optional)

    def _epilog(self) -> str | None:
        if not self.signature.free:
            return None
        objects = ", ".join(k for k, v in self.config.items() if isinstance(v, dict))
        return (
            f"Every other key of {', '.join(COMMANDS[self.name])} can be set too ({objects}), and an entry inside one, "
            "as in --evaluator#amp True."
        )


def default_text(value: Any) -> str:
    """`` (default: ...)``; an expression of a config without its marks, nothing for None or a call."""
    shown = value[1:].replace("@", "") if isinstance(value, str) and value.startswith("$") else str(value)
    return "" if value is None or shown.endswith("()") else f" (default: {shown})"


def parse(words: Sequence[str], program: str) -> tuple[str, dict[str, Any]]:
    """Command and arguments that the words ask for; exits after ``--help``, with code 0."""
    if not words or words[0] in ("--help", "-h"):
        parser = _Parser(program, description="SAM registration: aligns two medical images.", add_help=False)
        commands = parser.add_argument_group("commands", f"{program} COMMAND --help shows the options of a command.")
        for name in COMMANDS:
            text = Command(name, program).signature.summary.replace("``", "")
            commands.add_argument(name, nargs="?", metavar=name, help=text.replace("%", "%%"))
        parser.usage = f"{program} COMMAND [arguments] [options]"
        parser.print_help()
        raise SystemExit(0)
    if words[0] not in COMMANDS:
        raise InputError(f"There is no command {words[0]!r}; choose one of {', '.join(COMMANDS)}.")
    return words[0], Command(words[0], program).parse(words[1:])
