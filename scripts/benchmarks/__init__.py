# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Commands that measure the numbers in docs/results.md."""
