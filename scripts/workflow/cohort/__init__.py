# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Registration of a list of pairs: resuming, locking, sharing among processes, summary."""
