# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Geometry: grids, warps, fields, affine alignment, files of fields, landmarks. Knows nothing of SAM or of networks."""
