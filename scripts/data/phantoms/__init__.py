# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Synthetic pairs with a known displacement: a beating heart and two abdomens."""
