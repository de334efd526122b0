# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Losses as pure functions: similarity, smoothness, overlap, and those that train Segment Anything."""
