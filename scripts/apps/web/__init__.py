# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""A web application: load two images, register them, click in one and see the same region in the other."""
