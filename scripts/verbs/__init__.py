# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The commands, one function each: register, correspond, masks, warp, invert, compose, evaluate."""
