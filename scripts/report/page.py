# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The parts of a self-contained HTML page: it opens offline, and takes nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:1200px;margin:1.5rem auto;padding:0 1rem;
color:#1b1f24;background:#fff}
h1{font-size:1.35rem;margin:.2rem 0}h2{font-size:1.05rem;margin:1.6rem 0 .5rem}
table{border-collapse:collapse;margin:.5rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.18rem .7rem .18rem 0;text-align:right;border-bottom:1px solid #d8dde3}
th:first-child,td:first-child{text-align:left}
.scroll{overflow-x:auto}.warn{background:#fff4d6;border-left:4px solid #d99a00;padding:.4rem .8rem;margin:.4rem 0}
.stage{position:relative;width:max-content;max-width:100%;background:#000;--x:50%}
.stage img{display:block;max-width:100%}
.stage img.top{position:absolute;left:0;top:0;clip-path:inset(0 calc(100% - var(--x)) 0 0)}
.stage .bar{position:absolute;top:0;bottom:0;left:var(--x);width:2px;background:#ffb000}
.controls{display:flex;gap:1rem;align-items:center;flex-wrap:wrap;margin:.5rem 0}
.controls input[type=range]{width:20rem}
.row{display:flex;flex-wrap:wrap;gap:1rem}.row img{width:36rem;max-width:100%}.failed{color:#b00020}small{color:#57606a}
"""


def page(title: str, body: Sequence[str]) -> str:
    """A whole page; the title is escaped, the body is HTML."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    # Nothing may be fetched, even if a name in the body were to try.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    head += f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def picture(png: bytes, alt: str, more: str = "") -> str:
    """An image inlined as PNG."""
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{escape(alt)}"{more}>'


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; see :func:`cell` for what a cell may be."""
    top = "".join(f"<th>{escape(h)}</th>" for h in header)
    lines = ["<tr>" + "".join(f"<td>{cell(v)}</td>" for v in row) + "</tr>" for row in rows]
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


class Html(str):
    """Text that is HTML already."""


def cell(value: Any) -> str:
    """A value of a table: numbers with four digits, nothing as a dash, everything else escaped."""
    if isinstance(value, Html):
        return value
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value))


def details(title: str, values: Mapping[str, Any]) -> str:
    """Names and values that are unfolded on request."""
    return f"<details><summary>{escape(title)}</summary>{table(('', ''), list(values.items()))}</details>"


def method_text(method: Mapping[str, str | None]) -> str:
    """The name of a method, and why it was chosen where it was not asked for."""
    return method["name"] + (f", because {method['reason']}" if method["reason"] else "")


def method_line(record: Mapping[str, Any]) -> list[str]:
    """A line on the method, where the record knows it."""
    return [f"<p>Method: {escape(method_text(record['method']))}</p>"] if record.get("method") else []


def warnings(sentences: Sequence[str]) -> list[str]:
    """One box a sentence."""
    return [f'<p class="warn">{escape(s)}</p>' for s in sentences]
