# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Rendering self-contained HTML pages from templates: they open offline and fetch nothing."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
VENDOR = HERE / "vendor"


def render(template: str, **values: Any) -> str:
    """A page from a template of ``scripts/report/templates``; all values are escaped."""
    return _environment().get_template(template).render(**values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell, "data_uri": data_uri, "method_text": method_text}
    return environment


def cell(value: Any) -> str:
    """A value in a table: numbers with four digits, None as a dash."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def method_text(method: Mapping[str, str | None]) -> str:
    """The name of a method, and why it was chosen, if it was chosen automatically."""
    return method["name"] + (f", because {method['reason']}" if method.get("reason") else "")


def data_uri(png: bytes) -> str:
    """A PNG as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def packed(raw: bytes) -> str:
    """Bytes for embedding: gzip, then base64."""
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()


def niivue() -> tuple[str, str]:
    """The code of the viewer, compressed and in base64, and its licence."""
    code = base64.b64encode((VENDOR / "niivue.umd.js.gz").read_bytes()).decode()
    return code, (VENDOR / "niivue.txt").read_text(encoding="utf-8")
