# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""The commands, one module and one function each; the command line and Python call the same functions."""
