# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Segment Anything models: building, everything mode, prompts, training the compact one."""
