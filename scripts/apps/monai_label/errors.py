# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Bad requests end with an HTTP status 4xx and one sentence, never with a bare 500."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import MONAILabelException

from ...common.errors import InputError
from ...workflow.outcome import input_error

logger = logging.getLogger(__name__)


class NotFoundError(InputError):
    """A request names an image, label, task or upload that does not exist."""


class NothingFoundError(InputError):
    """Both images are fine, but no region of one could be matched with a region of the other."""


STATUS = {NotFoundError: 404, NothingFoundError: 422}


@contextmanager
def http_errors() -> Iterator[None]:
    """Turns errors into HTTP answers: 4xx for bad input, 500 with one sentence for everything else.

    Raises:
        HTTPException: with the sentence as its detail.
    """
    try:
        yield
    except HTTPException:
        raise
    except Exception as error:
        plain = input_error(error)
        if plain is not None:
            raise HTTPException(STATUS.get(type(plain), 400), str(plain)) from error
        logger.exception("the request failed")
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise HTTPException(500, f"The server failed ({first}); its log has the details.") from error


def answer_bad_requests() -> None:
    """Lets MONAI Label's own server answer malformed parameters and its own refusals with 400.

    MONAI Label parses the parameters before it calls the app, and answers 500 without a word where they are not JSON.
    """
    from monailabel.app import app as server

    def not_json(request: Request, error: json.JSONDecodeError) -> JSONResponse:
        return JSONResponse({"detail": f"The parameters are not valid JSON: {error}."}, 400)

    def refused(request: Request, error: MONAILabelException) -> JSONResponse:
        return JSONResponse({"detail": error.msg}, 400)

    server.add_exception_handler(json.JSONDecodeError, not_json)
    server.add_exception_handler(MONAILabelException, refused)
    server.middleware_stack = None  # the server is already starting; this makes it read its handlers again
