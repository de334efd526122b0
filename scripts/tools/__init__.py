# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""What a user does after registering: warp, invert, compose, evaluate. One function a verb."""
