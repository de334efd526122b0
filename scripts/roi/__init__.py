# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""ROI registration: regions, prototypes, matching, and the dense field (Huang et al. 2024)."""
