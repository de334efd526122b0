# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Losses: pure functions, and terms that a config combines into the loss of a registered pair."""
