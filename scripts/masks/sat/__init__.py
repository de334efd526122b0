# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""SAT, segmentation by text prompts (Zhao et al., npj Digital Medicine 2025), written from its description."""
