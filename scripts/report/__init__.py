# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""What a registration leaves behind: files and pictures."""
