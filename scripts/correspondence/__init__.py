# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Corresponding regions of two images: regions, matches, and the result of both methods."""
