# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Many pairs in one go: the list, the lock, what is done already, the run, and the table."""
