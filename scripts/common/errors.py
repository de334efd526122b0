# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The one error type meant for the person who gave the input."""


class InputError(ValueError):
    """Something that the user gave cannot be used; the message is one sentence that says what, and what to do."""
