# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The cross-attention registration network: encoders, windowed attention, coarse-to-fine field."""
