# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""What every floor needs: errors, files, hashing, cache, lock, memory, device, weights."""
