# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""``app``: the server of the web application."""

from __future__ import annotations

import os
import tempfile
from contextlib import chdir
from importlib.util import find_spec
from pathlib import Path

from ...common.errors import InputError

PREFIX = "sam_registration_app_"  # of the temporary folder
UPLOADS = "uploads"


def app(host: str = "127.0.0.1", port: int = 7860, max_upload_mb: float = 512, device: str = "auto") -> None:
    """Starts the web application and serves it until Ctrl-C.

    Args:
        host: address to listen on; 0.0.0.0 lets other machines in, without a password.
        port: of the server.
        max_upload_mb: largest file that can be uploaded, in 1e6 bytes.
        device: auto (the best one present), cpu, cuda, cuda:1 or mps.

    Raises:
        InputError: Gradio is not installed, or the port is taken.
    """
    if find_spec("gradio") is None:
        raise InputError("The web application needs Gradio; install it with: pip install -r requirements-app.txt")
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as root, chdir(root):
        # Gradio tells the browser where it keeps an upload, and in this folder the answer is a relative path.
        os.environ["GRADIO_TEMP_DIR"] = UPLOADS
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from .server import serve

        serve(Path(root), host, port, max_upload_mb, device)
