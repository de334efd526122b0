# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The error type whose message is meant for the user."""


class InputError(ValueError):
    """An input cannot be used. The message is one sentence: what is wrong, with the value, and what to do."""
