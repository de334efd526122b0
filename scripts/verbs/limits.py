# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The option ``max_image_gb`` of the commands that are plain functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from ..spatial.files import size_limit


def limited(verb: Callable) -> Callable:
    """A command whose argument ``max_image_gb`` limits every file that it reads."""
    signature = inspect.signature(verb)

    @wraps(verb)
    def call(*arguments: Any, **options: Any) -> Any:
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        with size_limit(bound.arguments["max_image_gb"]):
            return verb(*arguments, **options)

    return call
