# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""Images and pairs as they come: reading, geometry, intensity windows, phantoms, training samples."""
