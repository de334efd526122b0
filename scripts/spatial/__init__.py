# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Geometry: grids, warps, fields, affine alignment, transform files, landmarks."""
