# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Bad requests end with an HTTP status 4xx and one sentence, never with a bare 500."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import JSONResponse, Response
from monailabel.interfaces.exception import MONAILabelException

from ...common.errors import InputError
from ...workflow.outcome import input_error

logger = logging.getLogger(__name__)


class NotFoundError(InputError):
    """A request names an image, label, task or upload that does not exist."""


class NothingFoundError(InputError):
    """Both images are fine, but no region of one could be matched with a region of the other."""


STATUS = {NotFoundError: 404, NothingFoundError: 422}
# Refusals that MONAI Label sends with status 500, by how they begin.
REFUSALS = {
    "Neither Image": "The request names no image; name one of the studies (?image=NAME) or upload one.",
    "DICOM SEG format is not supported": "The output dicom_seg needs studies on a DICOMweb server; use output=image.",
    "Parameters for DICOM SEG": "The output dicom_seg needs the parameter label_info.",
}


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
    """Makes MONAI Label's server answer bad requests with 400 and one sentence.

    MONAI Label itself answers 500 before it calls the app if a request has no image, parameters that are not a JSON
    object, or an output format that the studies do not support.
    """
    from monailabel.app import app as server

    def answer(sentence: str) -> JSONResponse:
        return JSONResponse({"detail": sentence}, 400)

    def not_an_object(request: Request, error: Exception) -> JSONResponse:
        # MONAI Label merges the parameters into a dict in this function; the app raises neither error through it.
        if traceback.extract_tb(error.__traceback__)[-1].name != "run_inference":
            raise error
        return answer('The parameters must be a JSON object such as {"other_image": "NAME"}.')

    async def refused_early(request: Request, error: HTTPException) -> Response:
        sentence = next((ours for theirs, ours in REFUSALS.items() if str(error.detail).startswith(theirs)), None)
        return answer(sentence) if sentence else await http_exception_handler(request, error)

    server.add_exception_handler(
        json.JSONDecodeError, lambda _, error: answer(f"The parameters are not valid JSON: {error}.")
    )
    server.add_exception_handler(TypeError, not_an_object)
    server.add_exception_handler(ValueError, not_an_object)
    server.add_exception_handler(MONAILabelException, lambda _, error: answer(error.msg))
    server.add_exception_handler(HTTPException, refused_early)
    server.middleware_stack = None  # the server is already starting; this makes it read its handlers again
