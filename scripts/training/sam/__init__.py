# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Training Segment Anything models."""
