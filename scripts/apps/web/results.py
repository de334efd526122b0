# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""What the page says about a result, and the addresses of a session's results."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from ...metrics.assembly import TITLES
from .sessions import Session, Sessions


def registration_text(record: Mapping[str, Any]) -> str:
    """Pairs, measures and warnings of a registration, as HTML."""
    metrics, said = record["metrics"], [f"{len(record['pairs'])} pairs of regions"]
    for key in ("dice", "hd95_mm", "tre_mm"):
        values = [f"{s} {v['mean']:.3g}" for s, v in metrics.get(key, {}).items() if v["mean"] is not None]
        if values:
            said.append(f"mean {TITLES[key]}: {', '.join(values)}")
    if "field" in metrics:
        said.append(f"{metrics['field']['folds_percent']:.3g} % of the field folds")
    return _paragraphs(["; ".join(said) + ".", *record["warnings"]])


def correspondence_text(record: Mapping[str, Any]) -> str:
    """The similarity of the two regions and warnings, as HTML."""
    pair = record["pairs"][0]
    return _paragraphs([f"The region and its partner, similarity {pair['score']:.2f}.", *record["warnings"]])


def download_link(session: Session) -> str:
    """A link to everything that was computed."""
    return f"<p><a id='download' href='results/{session.token}/all.zip' download>Download everything</a></p>"


def report_frame(session: Session) -> str:
    """The report of the registration, inside the page but without access to it."""
    address = f"results/{session.token}/report.html"
    return f"<iframe class='report' title='report' sandbox='allow-scripts' src='{address}'></iframe>"


def add_routes(server: FastAPI, sessions: Sessions) -> None:
    """Serves the results of each session under its token."""

    def found(token: str) -> Session:
        session = sessions.by_token(token)
        if session is None or not session.note:
            raise HTTPException(404, "There is no such result.")
        return session

    @server.get("/results/{token}/all.zip")
    def everything(token: str) -> FileResponse:
        path = found(token).archive()
        return FileResponse(path, filename="sam_registration.zip", background=BackgroundTask(path.unlink, True))

    @server.get("/results/{token}/report.html")
    def report(token: str) -> FileResponse:
        path = found(token).report
        if not path.is_file():
            raise HTTPException(404, "There is no report.")
        return FileResponse(path, headers={"Cache-Control": "no-store"})


def _paragraphs(sentences: list[str]) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
