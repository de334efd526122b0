# Copyright (c) SAM registration contributors. Licensed under the Apache License, Version 2.0.
"""SAM registration: a MONAI bundle that aligns two medical images with the help of Segment Anything."""
