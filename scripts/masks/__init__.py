# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Masks by anatomical name, from bundled networks, SAT, MONAI bundles, or files."""
