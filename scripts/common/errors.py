# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The error type whose message is meant for the user."""


class InputError(ValueError):
    """An input cannot be used. The message is one sentence: what is wrong, with the value, and what to do.

    Line breaks, which a file name may contain, are shown as escapes, so that the message stays one line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.replace("\n", "\\n").replace("\r", "\\r"))
