# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Images and pairs: reading and writing, intensity windows, phantoms, training samples."""
