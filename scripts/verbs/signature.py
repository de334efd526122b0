# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""What a command takes, read from the source of its function.

Importing a verb loads torch and MONAI, which takes seconds; its help and its errors need only the signature and the
docstring.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Argument:
    """One argument of a command.

    Attributes:
        name: of the argument.
        kind: as in :mod:`scripts.workflow.options`.
        default: None also where the argument is required.
        required: it has no default.
        by_position: it may be given without its name.
        may_be_none: its annotation allows None.
        help: from the docstring.
    """

    name: str
    kind: str
    default: Any
    required: bool
    by_position: bool
    may_be_none: bool
    help: str


@dataclass(frozen=True)
class Signature:
    """What a function takes; ``free`` says that it also takes the options of its configs."""

    arguments: tuple[Argument, ...]
    summary: str
    free: bool


def read_signature(module: Path, function: str) -> Signature:
    """Reads the signature of a function whose defaults are literals and whose docstring has Google's "Args:"."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    text = ast.get_docstring(node) or ""
    lines, spec = _argument_lines(text), node.args
    missing = object()
    values = [missing] * (len(spec.args) - len(spec.defaults)) + [ast.literal_eval(d) for d in spec.defaults]
    values += [missing if d is None else ast.literal_eval(d) for d in spec.kw_defaults]
    arguments = []
    for position, (item, value) in enumerate(zip([*spec.args, *spec.kwonlyargs], values)):
        annotation, required = ast.unparse(item.annotation), value is missing
        default, by_position = None if required else value, position < len(spec.args)
        line = lines.get(item.arg, "")
        arguments.append(
            Argument(item.arg, _kind(annotation), default, required, by_position, "None" in annotation, line)
        )
    return Signature(tuple(arguments), text.split("\n\n")[0].replace("\n", " "), spec.kwarg is not None)


def _argument_lines(docstring: str) -> dict[str, str]:
    """Help by argument; continued lines are indented further."""
    block = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", docstring, re.S | re.M)
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", block[1] if block else "", re.M)
    return {name: re.sub(r"\s+", " ", text).replace("``", "").rstrip(".") for name, text in found}


def _kind(annotation: str) -> str:
    """Paths and words are taken as written, also those that look like a number."""
    if "bool" in annotation:
        return "switch"
    if "Path" in annotation:
        return "file"
    if "dict" in annotation or "Sequence" in annotation:
        return "value"
    return {"int": "whole", "float": "number"}.get(annotation.split(" |")[0], "text")
