# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Measures of a result: overlap, surface distance, landmark error, and regularity of the field."""
