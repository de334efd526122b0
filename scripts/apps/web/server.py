# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The web server: the page, and the results of each session."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ...common.errors import InputError
from .page import CSS, Page
from .results import add_routes
from .sessions import Sessions
from .worker import Worker

logger = logging.getLogger(__name__)

FORM_BYTES = 100_000  # of a request around its file
FONTS = ["system-ui", "sans-serif"]  # Gradio's own are fetched from the network


def serve(root: Path, host: str, port: int, max_upload_mb: float, device: str) -> None:
    """Serves the page until the process is interrupted.

    Args:
        root: an empty folder for the sessions.
        host: address to listen on.
        port: of the server; 0 takes any that is free.
        max_upload_mb: largest upload in 1e6 bytes.
        device: of the computations.

    Raises:
        InputError: the address cannot be used.
    """
    with closing(_listening(host, port)) as listener, closing(Worker()) as worker:
        sessions, server = Sessions(root), FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        add_routes(server, sessions)
        gr.mount_gradio_app(
            server,
            Page(sessions, worker, device).build(),
            path="/",
            max_file_size=int(max_upload_mb * 1e6),
            theme=gr.themes.Default(font=FONTS, font_mono=["monospace"]),
            css=CSS,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
        )
        address = f"http://{host}:{listener.getsockname()[1]}"
        logger.info("the web application is at %s; stop it with Ctrl-C", address)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the folder is removed in this case, too
        limited = UploadLimit(server, int(max_upload_mb * 1e6))
        config = uvicorn.Config(limited, log_level="warning", timeout_graceful_shutdown=3)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


class UploadLimit:
    """Refuses uploads that announce too large a size, or none, before anything is stored.

    Args:
        server: gets all other requests.
        most: bytes.
    """

    def __init__(self, server: ASGIApp, most: int) -> None:
        self.server, self.most = server, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request or passes it on."""
        answer: ASGIApp = self.server
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/upload"):
            length = dict(scope["headers"]).get(b"content-length", b"")
            if not length.isdigit() or int(length) > self.most + FORM_BYTES:
                text = f"The file is larger than {self.most / 1e6:g} MB, the limit of this server."
                answer = PlainTextResponse(text, 413, headers={"Connection": "close"})
        await answer(scope, receive, send)


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise InputError(
            f"Nothing can listen at {host}, port {port} ({error.strerror or error}); give another --host or --port."
        ) from error
